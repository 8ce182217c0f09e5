/* The demo's report: one HTML file that carries its figures and draws them, without any other file or the network. */
#ifndef CRORE_REPORT_H
#define CRORE_REPORT_H

#include <stddef.h>

/* Makes DIR where it is missing. 0, or -errno if nothing can be written there. */
int report_prepare(const char *dir);

/* Writes DIR/index.html. json: an object, as the template's script expects it. 0 or -errno. */
int report_write(const char *dir, const char *json);

#endif
