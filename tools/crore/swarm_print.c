/* What the swarm saw: a table for people, JSON for programs. */
#include <string.h>

#include "swarm.h"

static const double fractions[] = {0.5, 0.9, 0.99, 0.999, 0.9999};
static const char *const fraction_names[] = {"p50", "p90", "p99", "p99.9", "p99.99"};
#define FRACTIONS (sizeof(fractions) / sizeof(fractions[0]))

static void print_errors(FILE *to, const char *what, const int64_t *errors)
{
    for (int e = 0; e < SWARM_ERRNOS; e++) {
        if (errors[e])
            fprintf(to, "  %-22s %12lld   %s\n", what, (long long)errors[e], e ? strerror(e) : "other");
    }
}

static void print_time(FILE *to, const char *name, int64_t ns)
{
    if (ns < 1000000)
        fprintf(to, "  latency %-14s %12.1f us\n", name, (double)ns / 1e3);
    else
        fprintf(to, "  latency %-14s %12.2f ms\n", name, (double)ns / 1e6);
}

void swarm_print_table(FILE *to, const struct swarm_options *o, const struct swarm_result *r)
{
    double seconds = r->send_seconds > 0 ? r->send_seconds : 1;
    fprintf(to, "  %-22s %12lld   of %lld, in %.1f s\n", "connections opened", (long long)r->opened, (long long)o->connections, r->open_seconds);
    fprintf(to, "  %-22s %12lld\n", "connections lost", (long long)r->lost);
    fprintf(to, "  %-22s %12lld   %.0f a second of %lld bytes\n", "messages", (long long)r->received, (double)r->received / seconds, (long long)o->size_bytes);
    if (o->rate > 0)
        fprintf(to, "  %-22s %12lld   due before the answer to the one before had come\n", "messages late", (long long)r->late);
    fprintf(to, "  %-22s %12lld\n", "messages wrong", (long long)r->wrong);
    for (size_t i = 0; i < FRACTIONS; i++)
        print_time(to, fraction_names[i], histogram_quantile(&r->latency, fractions[i]));
    print_time(to, "max", r->latency.max);
    print_errors(to, "could not connect", r->dial_errors);
    print_errors(to, "connection error", r->io_errors);
    if (r->interrupted)
        fprintf(to, "  interrupted\n");
}

static void json_errors(FILE *to, const char *name, const int64_t *errors)
{
    const char *comma = "";
    fprintf(to, "  \"%s\": {", name);
    for (int e = 0; e < SWARM_ERRNOS; e++) {
        if (!errors[e])
            continue;
        fprintf(to, "%s\"%s\": %lld", comma, e ? strerror(e) : "other", (long long)errors[e]);
        comma = ", ";
    }
    fprintf(to, "},\n");
}

static void json_samples(FILE *to, const struct swarm_result *r)
{
    fprintf(to, "  \"samples\": [");
    for (int i = 0; i < r->sample_count; i++) {
        const struct swarm_sample *s = &r->samples[i];
        fprintf(to, "%s\n    {\"seconds\": %.3f, \"sending\": %s, \"open\": %lld, \"messages_per_second\": %.1f, \"p50_ns\": %lld, \"p99_ns\": %lld, "
                "\"max_ns\": %lld, \"user_bytes_per_connection\": %.0f}",
                i ? "," : "", s->seconds, s->sending ? "true" : "false", (long long)s->open, s->messages_per_second, (long long)s->p50_ns,
                (long long)s->p99_ns, (long long)s->max_ns, s->user_bytes_per_connection);
    }
    fprintf(to, "\n  ],\n");
}

static void json_distribution(FILE *to, const struct histogram *h)
{
    const char *comma = "";
    fprintf(to, "  \"distribution\": [");
    for (double beyond = 1; beyond > 1e-6 && (double)h->count * beyond >= 1; beyond /= 1.2589254117941673) {
        fprintf(to, "%s[%.7f, %lld]", comma, 1 - beyond, (long long)histogram_quantile(h, 1 - beyond));
        comma = ", ";
    }
    fprintf(to, "],\n");
}

void swarm_print_json(FILE *to, const struct swarm_options *o, const struct swarm_result *r)
{
    fprintf(to, "{\n  \"url\": \"");
    for (const char *c = o->url; *c; c++) {
        if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ')
            fprintf(to, "\\u%04x", (unsigned char)*c);
        else
            fputc(*c, to);
    }
    fprintf(to, "\",\n  \"connections\": %lld, \"rate\": %lld, \"size_bytes\": %lld, \"workers\": %u,\n", (long long)o->connections, (long long)o->rate, (long long)o->size_bytes,
            o->workers);
    fprintf(to, "  \"opened\": %lld, \"lost\": %lld, \"open_seconds\": %.3f, \"send_seconds\": %.3f,\n", (long long)r->opened, (long long)r->lost, r->open_seconds, r->send_seconds);
    fprintf(to, "  \"sent\": %lld, \"received\": %lld, \"late\": %lld, \"wrong\": %lld, \"received_bytes\": %lld,\n", (long long)r->sent, (long long)r->received,
            (long long)r->late, (long long)r->wrong, (long long)r->received_bytes);
    fprintf(to, "  \"messages_per_second\": %.1f,\n  \"interrupted\": %s,\n", r->send_seconds > 0 ? (double)r->received / r->send_seconds : 0, r->interrupted ? "true" : "false");
    fprintf(to, "  \"latency_ns\": {");
    for (size_t i = 0; i < FRACTIONS; i++)
        fprintf(to, "\"%s\": %lld, ", fraction_names[i], (long long)histogram_quantile(&r->latency, fractions[i]));
    fprintf(to, "\"mean\": %lld, \"max\": %lld},\n", (long long)(r->latency.count ? r->latency.sum / (int64_t)r->latency.count : 0), (long long)r->latency.max);
    json_errors(to, "dial_errors", r->dial_errors);
    json_errors(to, "io_errors", r->io_errors);
    json_samples(to, r);
    json_distribution(to, &r->latency);
    fprintf(to, "  \"good\": %s\n}\n", swarm_good(o, r) ? "true" : "false");
}
