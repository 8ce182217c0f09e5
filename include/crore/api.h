/* Marks of the public interface: what is exported, whose result must be checked, and the version.
 * Every public header includes this one and nothing else of crore unless it says so.
 *
 * Objects that a call is given, and where it puts its results, must not be NULL, nor destroyed, unless it is said what happens then: such a call crashes. */
#ifndef CRORE_API_H
#define CRORE_API_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CR_VERSION_MAJOR 0
#define CR_VERSION_MINOR 1
#define CR_VERSION_PATCH 0

#define CR_API __attribute__((visibility("default")))
#define CR_CHECKED __attribute__((warn_unused_result)) /* an error comes back as -errno: look at it */

/* Durations and points in time are nanoseconds in an int64_t. */
#define CR_US ((int64_t)1000)
#define CR_MS ((int64_t)1000000)
#define CR_SEC ((int64_t)1000000000)
#define CR_FOREVER INT64_MAX /* as a deadline: none */

#ifdef __cplusplus
extern "C" {
#endif

/* The library's version as "major.minor.patch". Never suspends; any thread; the string is static. */
CR_API const char *cr_version(void);

#ifdef __cplusplus
}
#endif
#endif
