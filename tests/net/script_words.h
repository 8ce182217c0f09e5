/* Scripts: how a line is read, word by word; and its time. */
#ifndef CR_TEST_SCRIPT_WORDS_H
#define CR_TEST_SCRIPT_WORDS_H

#include "script_host.h"

static void skip(const char **at)
{
    while (isspace((unsigned char)**at))
        ++*at;
}

static bool take(const char **at, const char *word)
{
    skip(at);
    size_t size = strlen(word);
    if (strncmp(*at, word, size) != 0 || (isalnum((unsigned char)word[size - 1]) && (isalnum((unsigned char)(*at)[size]) || (*at)[size] == '_')))
        return false;
    *at += size;
    return true;
}

static void must(const char **at, const char *word)
{
    if (!take(at, word))
        fail("expected \"%s\" in the script at: %s", word, *at);
}

static uint32_t number(const char **at)
{
    skip(at);
    char *end;
    long long value = strtoll(*at, &end, 0);
    if (end == *at)
        fail("expected a number in the script at: %s", *at);
    *at = end;
    return (uint32_t)value;
}

static bool number_comes(const char **at)
{
    skip(at);
    return isdigit((unsigned char)**at) || (**at == '-' && isdigit((unsigned char)(*at)[1]));
}

static void word(const char **at, char *out, size_t size)
{
    skip(at);
    size_t used = 0;
    while ((isalnum((unsigned char)**at) || **at == '_') && used + 1 < size)
        out[used++] = *(*at)++;
    out[used] = '\0';
    if (used == 0)
        fail("expected a word in the script at: %s", *at);
}

static int64_t one_time(const char **at, int64_t base_ns)
{
    skip(at);
    bool relative = take(at, "+");
    char *end;
    double value = strtod(*at, &end);
    if (end == *at)
        fail("expected a time in the script at: %s", *at);
    *at = end;
    return (relative ? base_ns : script.begin_ns) + (int64_t)(value * 1e9 + 0.5);
}

struct span {
    int64_t from_ns, to_ns;
};

static struct span times(const char **at)
{
    struct span span;
    if (take(at, "*"))
        return (struct span){script.last_ns, script.last_ns + PATIENCE_NS};
    span.from_ns = span.to_ns = one_time(at, script.last_ns);
    if (take(at, "~"))
        span.to_ns = one_time(at, script.last_ns);
    return span;
}

#endif
