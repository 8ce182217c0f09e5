#include "report.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char report_template[] =
#include "report_html.h" /* made from report.html */
    ;

#define MARK "@FIGURES@" /* where the figures go */

int report_prepare(const char *dir)
{
    char path[4096];
    if ((size_t)snprintf(path, sizeof(path), "%s", dir) >= sizeof(path))
        return -ENAMETOOLONG;
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (mkdir(path, 0777) < 0 && errno != EEXIST)
            return -errno;
        *slash = '/';
    }
    if (mkdir(path, 0777) < 0 && errno != EEXIST)
        return -errno;
    return access(path, W_OK) < 0 ? -errno : 0;
}

int report_write(const char *dir, const char *json)
{
    char path[4096];
    if ((size_t)snprintf(path, sizeof(path), "%s/index.html", dir) >= sizeof(path))
        return -ENAMETOOLONG;
    FILE *file = fopen(path, "we");
    if (!file)
        return -errno;
    const char *mark = strstr(report_template, MARK);
    fprintf(file, "%.*s%s%s", (int)(mark - report_template), report_template, json, mark + strlen(MARK));
    int r = ferror(file) ? -EIO : 0;
    return fclose(file) == 0 ? r : -errno;
}
