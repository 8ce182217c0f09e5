/* How many processors a cgroup's quota is worth. */
#include <stdio.h>
#include <string.h>

#include "os/os.h"
#include "rt/rt.h"

/* Processors that one cgroup's quota is worth, rounded up; 0: no quota. */
static unsigned quota_of(const char *root, const char *directory)
{
    char path[4096], text[64];
    int length = snprintf(path, sizeof(path), "%s%s/cpu.max", root, directory);
    if (length >= (int)sizeof(path))
        return 0;
    int fd = cr__os_open(path, O_RDONLY, 0);
    if (fd < 0)
        return 0;
    ssize_t n = cr__os_read(fd, text, sizeof(text) - 1);
    cr__os_close(fd);
    if (n <= 0)
        return 0;
    text[n] = '\0';
    unsigned long long quota, period;
    if (sscanf(text, "%llu %llu", &quota, &period) != 2 || period == 0) /* "max 100000" */
        return 0;
    return (unsigned)((quota + period - 1) / period);
}

unsigned cr__cgroup_processors(const char *membership, const char *root)
{
    char text[4096];
    int fd = cr__os_open(membership, O_RDONLY, 0);
    if (fd < 0)
        return 0;
    ssize_t n = cr__os_read(fd, text, sizeof(text) - 1);
    cr__os_close(fd);
    text[n > 0 ? n : 0] = '\0';
    char *directory = strncmp(text, "0::/", 4) == 0 ? text : strstr(text, "\n0::/"); /* others are of version 1 */
    if (!directory)
        return 0;
    directory = strchr(directory, '/');
    directory[strcspn(directory, "\n")] = '\0';
    unsigned least = 0;
    for (;;) {
        unsigned quota = quota_of(root, strcmp(directory, "/") == 0 ? "" : directory);
        if (quota > 0 && (least == 0 || quota < least))
            least = quota;
        char *slash = strrchr(directory, '/');
        if (!slash || directory[1] == '\0')
            return least;
        slash[slash == directory ? 1 : 0] = '\0';
    }
}
