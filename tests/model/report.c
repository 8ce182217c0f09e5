/* What people are told: names for code and for memory, and an execution step by step. Names come from addr2line and nm: only
 * when there is something to tell. */
#include "internal.h"

#include <link.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NAMES 64
#define LINES_AT_ONCE 200

bool model__symbols;

static struct {
    const volatile void *addr;
    const char *name;
} names[NAMES];
static int names_used;

void model_name(const volatile void *addr, const char *name)
{
    int i = 0;
    while (i < names_used && names[i].addr != addr)
        i++;
    if (i == NAMES)
        return;
    names[i].addr = addr;
    names[i].name = name;
    if (i == names_used)
        names_used++;
}

const char *model__order_name(unsigned order)
{
    static const char *const order_name[] = {"relaxed", "consume", "acquire", "release", "acq_rel", "seq_cst"};
    return order <= __ATOMIC_SEQ_CST ? order_name[order] : "?";
}

/* ---- Code --------------------------------------------------------------------------------------------------- */

static int find_bias(struct dl_phdr_info *info, size_t size, void *out)
{
    (void)size;
    *(uintptr_t *)out = info->dlpi_addr;
    return 1; /* the first is the program itself */
}

static uintptr_t bias(void)
{
    uintptr_t start = 0;
    dl_iterate_phdr(find_bias, &start);
    return start;
}

/* From "/a/b/../src/x.h:12 (discriminator 3)" what comes from "src/" or "tests/" on. */
static void shorten(char *line, char *out, size_t size)
{
    static const char *const folders[] = {"/src/", "/tests/", "/include/"};
    char *end = strchr(line, ' ');
    if (end)
        *end = '\0';
    const char *from = line;
    for (size_t i = 0; i < sizeof(folders) / sizeof(*folders); i++)
        for (char *at = line; (at = strstr(at, folders[i])) != NULL; at++)
            if (at + 1 > from)
                from = at + 1;
    snprintf(out, size, "%.*s", (int)size - 1, from);
}

static void ask(const void *const *pcs, int n, struct model__line *out)
{
    char command[64 + LINES_AT_ONCE * 20], exe[256] = "", text[1024];
    if (readlink("/proc/self/exe", exe, sizeof(exe) - 1) < 0)
        return;
    size_t used = (size_t)snprintf(command, sizeof(command), "addr2line -a -f -i -e '%s'", exe);
    for (int i = 0; i < n; i++)
        used += (size_t)snprintf(command + used, sizeof(command) - used, " %lx", (unsigned long)((uintptr_t)pcs[i] - 1 - bias()));
    FILE *answer = popen(command, "r"); /* for each: the address, the function, the line; and again for that into which it is inlined */
    if (!answer)
        return;
    for (int i = -1, nth = 0; i < n && fgets(text, sizeof(text), answer); nth++) {
        text[strcspn(text, "\n")] = '\0';
        if (strncmp(text, "0x", 2) == 0) {
            i++;
            nth = 0;
        } else if (nth == 1 && strcmp(text, "??") != 0) {
            snprintf(out[i].function, sizeof(out[i].function), "%.*s", (int)sizeof(out[i].function) - 1, text);
        } else if (nth == 2 && text[0] != '?') {
            shorten(text, out[i].where, sizeof(out[i].where));
        }
    }
    pclose(answer);
}

void model__lines(const void *const *pcs, int n, struct model__line *out)
{
    for (int i = 0; i < n; i++) {
        snprintf(out[i].where, sizeof(out[i].where), "%p", pcs[i]);
        snprintf(out[i].function, sizeof(out[i].function), "?");
    }
    for (int i = 0; i < n && model__symbols; i += LINES_AT_ONCE)
        ask(pcs + i, n - i < LINES_AT_ONCE ? n - i : LINES_AT_ONCE, out + i);
}

struct model__line model__line(const void *pc)
{
    struct model__line line;
    model__lines(&pc, 1, &line);
    return line;
}

/* ---- Memory ------------------------------------------------------------------------------------------------- */

struct symbol {
    unsigned long addr;
    char type, name[55];
};

static struct symbol *symbols;
static size_t symbols_used;

static void load_symbols(void)
{
    char command[300], exe[256] = "", text[512];
    size_t room = 0;
    if (readlink("/proc/self/exe", exe, sizeof(exe) - 1) < 0)
        return;
    snprintf(command, sizeof(command), "nm '%s'", exe);
    FILE *answer = popen(command, "r");
    while (answer && fgets(text, sizeof(text), answer)) {
        if (symbols_used == room) {
            room = room ? 2 * room : 1024;
            symbols = realloc(symbols, room * sizeof(*symbols));
            if (!symbols)
                abort();
        }
        struct symbol *symbol = &symbols[symbols_used];
        symbols_used += sscanf(text, "%lx %c %54s", &symbol->addr, &symbol->type, symbol->name) == 3;
    }
    if (answer)
        pclose(answer);
}

/* A function that begins at addr, or the object in which it lies. */
static bool find_symbol(const volatile void *addr, bool function, char *out, size_t size)
{
    unsigned long wanted = (unsigned long)((uintptr_t)addr - bias());
    const struct symbol *best = NULL;
    if (model__symbols && !symbols)
        load_symbols();
    for (size_t i = 0; i < symbols_used; i++) {
        const struct symbol *symbol = &symbols[i];
        if (function ? symbol->addr == wanted && strchr("tT", symbol->type)
                     : symbol->addr <= wanted && strchr("bBdD", symbol->type) && (!best || best->addr < symbol->addr))
            best = symbol;
    }
    if (!best || wanted - best->addr > 1 << 20)
        return false;
    if (wanted == best->addr)
        snprintf(out, size, "%s", best->name);
    else
        snprintf(out, size, "%s+%lu", best->name, wanted - best->addr);
    return true;
}

const char *model__addr_name(const volatile void *addr, char *buf, size_t size)
{
    for (int i = 0; i < names_used; i++)
        if (names[i].addr == addr) {
            snprintf(buf, size, "%s", names[i].name);
            return buf;
        }
    for (int t = 0; t < model__run.threads_used; t++) {
        const struct model__thread *thread = &model__run.threads[t];
        uintptr_t below = (uintptr_t)thread->frame - (uintptr_t)addr;
        if (addr == &model__permits[t]) {
            snprintf(buf, size, "permit of thread %d", t);
            return buf;
        }
        if (thread->frame && below < 1 << 16) {
            snprintf(buf, size, "stack of thread %d, %lu", t, (unsigned long)below);
            return buf;
        }
    }
    if (model__heap_has(addr) || !find_symbol(addr, false, buf, size))
        snprintf(buf, size, "%p", (const void *)(uintptr_t)addr);
    return buf;
}

const char *model__thread_name(int thread, char *buf, size_t size)
{
    char name[48];
    if (thread == MODEL_CHECKER)
        snprintf(buf, size, "check");
    else if (find_symbol((const void *)(uintptr_t)model__run.threads[thread].fn, true, name, sizeof(name)))
        snprintf(buf, size, "thread %d (%s)", thread, name);
    else
        snprintf(buf, size, "thread %d", thread);
    return buf;
}

/* ---- An execution ------------------------------------------------------------------------------------------- */

struct text {
    char *at;
    size_t room;
};

__attribute__((format(printf, 2, 3))) static void say(struct text *text, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text->at, text->room, format, args);
    va_end(args);
    size_t used = n < 0 ? 0 : (size_t)n < text->room ? (size_t)n : text->room - 1;
    text->at += used;
    text->room -= used;
}

static int step_of(int event)
{
    for (int i = 0; i < model__run.logged; i++)
        if (model__run.log[i] == event)
            return i;
    return -1;
}

/* How many newer writes there were when it came: its number among the choices. */
static int newer_at(int step)
{
    const struct model__event *events = model__run.graph.events, *e = &events[model__run.log[step]];
    int place = e->kind == MODEL_WRITE ? e->place : e->from == MODEL_INITIAL ? 0 : events[e->from].place, newer = 0;
    for (int i = 0; i < step; i++) {
        const struct model__event *other = &events[model__run.log[i]];
        newer += other->kind == MODEL_WRITE && other->slot == e->slot && other->place > place;
    }
    return newer;
}

static void say_value(struct text *text, uint64_t value)
{
    say(text, value < 65536 ? "%llu" : "0x%llx", (unsigned long long)value);
}

static void say_operation(struct text *text, int step)
{
    const struct model__event *e = &model__run.graph.events[model__run.log[step]];
    if (e->kind == MODEL_FENCE) {
        say(text, "fence %s", model__order_name(e->order));
    } else if (e->kind == MODEL_CHOICE) {
        say(text, "chooses %d", (int)e->value);
    } else if (e->kind == MODEL_WRITE) {
        say(text, (e->flags & MODEL_UPDATES) ? "  and writes " : "store ");
        say_value(text, e->value);
        if (!(e->flags & MODEL_UPDATES))
            say(text, " %s", model__order_name(e->order));
        if (newer_at(step))
            say(text, ", before %d", newer_at(step));
    } else {
        say(text, "%s ", !(e->flags & MODEL_UPDATES) ? "load" : (e->flags & MODEL_PARKS) ? "parks:" : model__succeeds(e) ? "update" : "fails:");
        say_value(text, e->value);
        say(text, " %s", model__order_name(model__order(e)));
        if (e->from != MODEL_INITIAL)
            say(text, " of %d", step_of(e->from) + 1);
        if (newer_at(step))
            say(text, ", %d newer", newer_at(step));
    }
}

static void say_choices(struct text *text)
{
    for (int i = 0; i < model__run.logged; i++) {
        const struct model__event *e = &model__run.graph.events[model__run.log[i]];
        if (e->kind == MODEL_WRITE && (e->flags & MODEL_UPDATES))
            continue; /* follows from its read */
        int choice = e->kind == MODEL_CHOICE ? (int)e->value : e->kind == MODEL_FENCE ? 0 : newer_at(i);
        say(text, "%c", 'a' + e->thread);
        if (choice)
            say(text, "%d", choice);
    }
}

void model__trace(char *out, size_t size)
{
    static struct model__line lines[MODEL_EVENTS];
    static const void *pcs[MODEL_EVENTS];
    static char thread_names[MODEL_THREADS][64];
    struct text text = {out, size};
    say(&text, "choices: ");
    say_choices(&text);
    say(&text, "\n");
    for (int i = 0; i < model__run.logged; i++)
        pcs[i] = model__run.graph.events[model__run.log[i]].pc;
    model__lines(pcs, model__run.logged, lines);
    for (int t = 0; t < model__run.threads_used; t++)
        model__thread_name(t, thread_names[t], sizeof(thread_names[t]));
    for (int i = 0; i < model__run.logged; i++) {
        const struct model__event *e = &model__run.graph.events[model__run.log[i]];
        char operation[80], location[80] = "";
        struct text part = {operation, sizeof(operation)};
        say_operation(&part, i);
        if (e->kind == MODEL_READ || e->kind == MODEL_WRITE)
            model__addr_name(model__location_addr(e->location), location, sizeof(location));
        say(&text, "%4d  %-24s %-36s %-20s %s (%s)\n", i + 1, thread_names[e->thread], operation, location, lines[i].where,
            lines[i].function);
    }
}
