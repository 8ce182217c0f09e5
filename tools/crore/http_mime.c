/* Types by the name's ending: a table of what web pages are made of, then Debian's /etc/mime.types, read at the first need. */
#include "serve.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNKNOWN "application/octet-stream"

struct type {
    char *ending, *name;
};

static const struct type common[] = {
    {"html", "text/html; charset=utf-8"}, {"css", "text/css; charset=utf-8"}, {"js", "text/javascript; charset=utf-8"},
    {"mjs", "text/javascript; charset=utf-8"}, {"json", "application/json"}, {"txt", "text/plain; charset=utf-8"},
    {"md", "text/markdown; charset=utf-8"}, {"svg", "image/svg+xml"}, {"png", "image/png"}, {"jpg", "image/jpeg"},
    {"jpeg", "image/jpeg"}, {"gif", "image/gif"}, {"webp", "image/webp"}, {"ico", "image/x-icon"}, {"woff2", "font/woff2"},
    {"wasm", "application/wasm"}, {"pdf", "application/pdf"}, {"xml", "application/xml"}, {"mp4", "video/mp4"},
    {"gz", "application/gzip"}, {"zip", "application/zip"}, {"c", "text/plain; charset=utf-8"}, {"h", "text/plain; charset=utf-8"},
};

static struct type *system_types;
static size_t system_count;

static void add(const char *ending, const char *name)
{
    struct type *more = realloc(system_types, (system_count + 1) * sizeof(*more));
    if (!more)
        return;
    system_types = more;
    struct type type = {strdup(ending), strdup(name)};
    if (type.ending && type.name)
        system_types[system_count++] = type;
}

static void read_system_types(void)
{
    char line[512];
    FILE *file = fopen("/etc/mime.types", "re");
    while (file && fgets(line, sizeof(line), file)) {
        char *rest, *name = strtok_r(line, " \t\n", &rest);
        if (!name || *name == '#')
            continue;
        for (char *ending; (ending = strtok_r(NULL, " \t\n", &rest)) != NULL;)
            add(ending, name);
    }
    if (file)
        fclose(file);
}

const char *http_mime_type(const char *name)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    const char *base = strrchr(name, '/');
    const char *dot = strrchr(base ? base : name, '.');
    if (!dot)
        return UNKNOWN;
    for (size_t i = 0; i < sizeof(common) / sizeof(common[0]); i++) {
        if (strcasecmp(dot + 1, common[i].ending) == 0)
            return common[i].name;
    }
    pthread_once(&once, read_system_types);
    for (size_t i = 0; i < system_count; i++) {
        if (strcasecmp(dot + 1, system_types[i].ending) == 0)
            return system_types[i].name;
    }
    return UNKNOWN;
}
