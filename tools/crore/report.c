#include "report.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const char report_template[] =
#include "report_html.h" /* made from report.html */
    ;

#define MARK "@FIGURES@" /* where the figures go */

static int make_directories(const char *dir)
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
    return mkdir(path, 0777) < 0 && errno != EEXIST ? -errno : 0;
}

int report_write(const char *dir, const char *json)
{
    char path[4096];
    int r = make_directories(dir);
    if (r < 0)
        return r;
    if ((size_t)snprintf(path, sizeof(path), "%s/index.html", dir) >= sizeof(path))
        return -ENAMETOOLONG;
    FILE *file = fopen(path, "we");
    if (!file)
        return -errno;
    const char *mark = strstr(report_template, MARK);
    fprintf(file, "%.*s%s%s", (int)(mark - report_template), report_template, json, mark + strlen(MARK));
    r = ferror(file) ? -EIO : 0;
    return fclose(file) == 0 ? r : -errno;
}
