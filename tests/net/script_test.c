/* Scripts: this packet at this time, this call, expect that packet. Each file of tests/net/scripts is a test; README.md there describes the language.
 *
 * One host in virtual time (script_host.h); the script is its user (script_calls.h), the wire and the peer (script_segments.h). Time stands still but between lines (script_words.h), and goes from one
 * due time of the host's to the next, so the same script gives the same packets each time. Whatever leaves the host must be expected, when it leaves; what leaves unexpected fails the script, and so
 * does a checksum that is wrong, data that is not what was written, a packet buffer that is lost, or an invariant of cr__tcp_check. */
#include <dirent.h>

#include "script_calls.h"
#include "script_segments.h"

/* ---- What is asserted of a connection ---- */

static const struct {
    const char *name;
    size_t offset, size;
} facts[] = {
#define TCP_FACT(name, field) {name, offsetof(struct cr__tcp, field), sizeof(((struct cr__tcp *)0)->field)}
    TCP_FACT("state", state),       TCP_FACT("cwnd", cwnd_bytes),     TCP_FACT("ssthresh", ssthresh_bytes), TCP_FACT("mss", mss_bytes),     TCP_FACT("srtt_us", srtt_us),
    TCP_FACT("rttvar_us", rttvar_us), TCP_FACT("rto_us", rto_us),     TCP_FACT("min_rtt_us", min_rtt_us),   TCP_FACT("snd_wnd", snd_wnd),   TCP_FACT("backoff", backoff),
    TCP_FACT("w_max", w_max_bytes),
    TCP_FACT("snd_scale", snd_scale), TCP_FACT("rcv_scale", rcv_scale), TCP_FACT("flags", flags),           TCP_FACT("probes", probes),     TCP_FACT("peer_mss", peer_mss_bytes),
};
static const struct {
    const char *name;
    long long value;
} constants[] = {
    {"CLOSED", CR__TCP_CLOSED},         {"SYN_SENT", CR__TCP_SYN_SENT},     {"SYN_RECEIVED", CR__TCP_SYN_RECEIVED}, {"ESTABLISHED", CR__TCP_ESTABLISHED},
    {"FIN_WAIT_1", CR__TCP_FIN_WAIT_1}, {"FIN_WAIT_2", CR__TCP_FIN_WAIT_2}, {"CLOSE_WAIT", CR__TCP_CLOSE_WAIT},     {"CLOSING", CR__TCP_CLOSING},
    {"LAST_ACK", CR__TCP_LAST_ACK},
};
static const struct {
    const char *name;
    enum cr__drop cause;
} drops[] = {
#define DROP(cause) {#cause, CR__DROP_##cause}
    DROP(TCP_MALFORMED), DROP(TCP_CHECKSUM), DROP(TCP_NO_PORT), DROP(TCP_WINDOW), DROP(TCP_PAWS),   DROP(TCP_ACK), DROP(TCP_DUPLICATE),
    DROP(TCP_FULL),      DROP(TCP_BACKLOG),  DROP(TCP_COOKIE),  DROP(TCP_LIMIT),  DROP(IP_SOURCE),
};
/* Of the public struct: with tcpi_ in front where a field of struct cr__tcp has the same name. */
static const struct {
    const char *name;
    size_t offset, size;
} infos[] = {
#define INFO(field) {#field, offsetof(struct cr_tcp_info, field), sizeof(((struct cr_tcp_info *)0)->field)}
    INFO(state), INFO(ca_state), INFO(retransmits), INFO(backoff), INFO(options), INFO(snd_wscale), INFO(rcv_wscale), INFO(ato_us), INFO(snd_mss_bytes), INFO(rcv_mss_bytes),
    INFO(advmss_bytes), INFO(pmtu_bytes), INFO(unacked), INFO(sacked), INFO(lost), INFO(retrans), INFO(rtt_us), INFO(snd_ssthresh), INFO(snd_cwnd), INFO(reordering), INFO(total_retrans),
    INFO(notsent_bytes), INFO(snd_wnd_bytes), INFO(rcv_wnd_bytes), INFO(rcv_ooo_bytes), INFO(rcv_queued_bytes), INFO(rcv_space_bytes),
};

static long long load(const void *at, size_t size)
{
    uint64_t value = 0;
    memcpy(&value, at, size);
    return (long long)value;
}

static long long term(const char **at)
{
    char name[48];
    skip(at);
    if (**at == '-' || isdigit((unsigned char)**at)) {
        char *end;
        long long value = strtoll(*at, &end, 0);
        *at = end;
        return value;
    }
    word(at, name, sizeof(name));
    const char *bare = strncmp(name, "TCP_", 4) == 0 ? name + 4 : name;
    for (size_t i = 0; i < CR__COUNT(constants); i++)
        if (strcmp(constants[i].name, bare) == 0)
            return constants[i].value;
    for (size_t i = 0; i < CR__COUNT(drops); i++)
        if (strncmp(name, "drop_", 5) == 0 && strcasecmp(drops[i].name, name + 5) == 0)
            return (long long)host.drops[drops[i].cause];
    if (!script.current || !script.current->tcp)
        fail("no connection to speak of: %s", name);
    const struct cr__tcp *tcp = script.current->tcp;
    if (strcmp(name, "idle") == 0)
        return tcp->flight == NULL;
    if (strcmp(name, "send_bytes") == 0)
        return tcp->flight ? tcp->flight->send_bytes : 0;
    if (strcmp(name, "receive_bytes") == 0)
        return tcp->flight ? tcp->flight->receive_bytes : 0;
    if (strcmp(name, "early_bytes") == 0)
        return tcp->flight ? tcp->flight->early_bytes : 0;
    for (size_t i = 0; i < CR__COUNT(facts) && strncmp(name, "tcpi_", 5) != 0; i++)
        if (strcmp(facts[i].name, name) == 0)
            return load((const char *)tcp + facts[i].offset, facts[i].size);
    struct cr_tcp_info info;
    memset(&info, 0, sizeof(info));
    cr__tcp_info(tcp, &info);
    for (size_t i = 0; i < CR__COUNT(infos); i++)
        if (strcmp(infos[i].name, strncmp(name, "tcpi_", 5) == 0 ? name + 5 : name) == 0)
            return load((const char *)&info + infos[i].offset, infos[i].size);
    fail("nothing is known as %s", name);
}

static long long sum(const char **at)
{
    long long value = term(at);
    for (;;) {
        if (take(at, "*"))
            value *= term(at);
        else if (take(at, "/"))
            value /= term(at);
        else if (take(at, "+"))
            value += term(at);
        else if (take(at, "&") && **at != '&')
            value &= term(at);
        else
            return value;
    }
}

static void assertion(const char **at)
{
    while (!take(at, "}%")) {
        must(at, "assert");
        long long left = sum(at), right;
        bool holds;
        if (take(at, "=="))
            holds = left == (right = sum(at));
        else if (take(at, "!="))
            holds = left != (right = sum(at));
        else if (take(at, "<="))
            holds = left <= (right = sum(at));
        else if (take(at, ">="))
            holds = left >= (right = sum(at));
        else if (take(at, "<"))
            holds = left < (right = sum(at));
        else {
            must(at, ">");
            holds = left > (right = sum(at));
        }
        if (!holds)
            fail("not so: the left is %lld, the right %lld", left, right);
        take(at, ";");
        take(at, "&&");
    }
}

/* ---- A script ---- */

static void option(const char *at)
{
    static const struct {
        const char *name;
        void *to;
        size_t size;
    } numbers[] = {{"mtu", &host_config.mtu_bytes, 2},
                   {"recv_limit", &tcp_config.recv_limit_bytes, 4},
                   {"send_limit", &tcp_config.send_limit_bytes, 4},
                   {"half_open_most", &tcp_config.half_open_most, 4},
                   {"initial_window", &tcp_config.initial_window, 4},
                   {"time_wait_ms", &tcp_config.time_wait_ms, 4},
                   {"isn", &tcp_config.isn_for_tests, 4},
                   {"two_addresses", &script.two_addresses, 1},
                   {"fixed_isn", &tcp_config.isn_is_fixed, 1},
                   {"remote_isn", &script.remote_isn, 4},
                   {"no_timestamps", &tcp_config.no_timestamps, 1},
                   {"no_sack", &tcp_config.no_sack, 1},
                   {"no_scaling", &tcp_config.no_scaling, 1},
                   {"no_delayed_acks", &tcp_config.no_delayed_acks, 1},
                   {"ecn", &tcp_config.ecn, 1},
                   {"newreno", &tcp_config.newreno, 1}};
    char name[32];
    word(&at, name, sizeof(name));
    if (!take(&at, "="))
        skip(&at);
    if (strcmp(name, "ip_version") == 0) {
        script.v6 = take(&at, "ipv6");
        return;
    }
    if (strcmp(name, "tolerance_usecs") == 0) {
        script.tolerance_ns = number(&at) * 1000ll;
        return;
    }
    uint32_t value = number_comes(&at) ? number(&at) : 1;
    for (size_t i = 0; i < CR__COUNT(numbers); i++)
        if (strcmp(numbers[i].name, name) == 0) {
            memcpy(numbers[i].to, &value, numbers[i].size);
            return;
        }
    fail("no option: %s", name);
}

static void begin(void)
{
    unsigned net = capture_net(); /* 10.0.0.0/24, else that test's own */
    if (script.v6) {
        local_ip = (struct cr__ip){.bytes = {0xfd, 0, [6] = (uint8_t)(net >> 8), (uint8_t)net, [15] = 1}};
        remote_ip = (struct cr__ip){.bytes = {0xfd, 0, [6] = (uint8_t)(net >> 8), (uint8_t)net, [15] = 2}};
    } else {
        local_ip = cr__ip_v4(htonl(0x0a000001 + (net << 8)));
        remote_ip = cr__ip_v4(htonl(0x0a000002 + (net << 8)));
    }
    memcpy(host_config.ethernet, local_ethernet, 6);
    script.net4 = 0x0a000000 + (net << 8);
    if (script.two_addresses)
        host_config.addresses[host_config.address_count++] = (struct cr__host_address){cr__ip_v4(htonl(0xac100001)), 96 + 24}; /* before it, and on another network */
    host_config.addresses[host_config.address_count++] = (struct cr__host_address){local_ip, script.v6 ? 64 : 96 + 24};
    host_config.packets = &cache;
    host_config.seed[0] = 1;
    host_config.seed[1] = 2;
    tcp_config.above = (struct cr__tcp_above){event, accepted};
    script.now_ns = START_NS;
    script.begin_ns = START_NS + SETTLE_NS;
    if (cr__host_init(&host, &host_config, script.now_ns) != 0 || cr__tcp_init(&host, &tcp_config) != 0)
        fail("the host does not begin");
    for (int i = 0; i < FLOWS; i++)
        script.flows[i] = (struct flow){.remote_isn = script.remote_isn, .local_isn = tcp_config.isn_for_tests, .local_port = LOCAL_PORT};
    advance(script.begin_ns, false);
    script.last_ns = script.now_ns;
}

static void end(void)
{
    if (script.emitted_count) {
        char text[512];
        print_emitted(text, sizeof(text), &script.emitted[script.emitted_first]);
        fail("nobody expects what came: %s", text);
    }
    for (int i = 0; i < FDS; i++)
        if (script.users[i].tcp || script.users[i].listener)
            gone(&script.users[i], cr__tcp_abort);
    cr__tcp_fini(&host);
    cr__host_fini(&host);
    cr__packet_flush(&cache);
    if (cr__packets_in_use())
        fail("%" PRIu64 " packets are lost", cr__packets_in_use());
}

static void event_line(const char *at)
{
    struct span span = times(&at);
    bool leaves = take(&at, ">");
    if (leaves) {
        struct said said = {.f.from_port = 0};
        advance(span.to_ns + script.tolerance_ns, true);
        if (!script.emitted_count)
            fail("nothing came");
        said.flow = flow_number(&at);
        segment_of(&at, &said, true);
        expect(&said, &span);
    } else {
        advance(span.to_ns, false);
        if (take(&at, "<")) {
            unsigned times = take(&at, "times") ? number(&at) : 1;
            struct said said = {.flow = flow_number(&at)};
            const char *inner = at;
            if (take(&inner, "[") && number_comes(&inner)) {
                at = inner;
                arrive_icmp(&at, said.flow);
            } else {
                segment_of(&at, &said, false);
                while (times--)
                    arrive(&said);
            }
        } else if (take(&at, "%{")) {
            assertion(&at);
        } else if (take(&at, "swallow")) {
            script.emitted_count = 0;
        } else if (take(&at, "quiet")) {
            if (script.emitted_count) {
                char text[512];
                print_emitted(text, sizeof(text), &script.emitted[script.emitted_first]);
                fail("nobody expects what came: %s", text);
            }
        } else {
            call(&at);
        }
        script.last_ns = script.now_ns;
    }
    collect();
    check_all();
    skip(&at);
    if (*at && !(take(&at, ";") && !*at))
        fail("not understood: %s", at);
}

static void run(void)
{
    char path[1024];
    snprintf(path, sizeof(path), "%s/%s.pkt", CR_NET_SCRIPTS, test_current->name);
    script.file = test_current->name;
    script.tolerance_ns = 20000; /* a tick of the wheel, and some */
    script.remote_isn = 0xffffff80;
    tcp_config.isn_for_tests = 0xfffffe00;
    tcp_config.isn_is_fixed = true;
    FILE *file = fopen(path, "r");
    if (!file)
        fail("can't be read");
    bool begun = false;
    while (fgets(script.text, sizeof(script.text), file)) {
        script.line++;
        script.text[strcspn(script.text, "\n")] = '\0';
        char line[512];
        memcpy(line, script.text, sizeof(line));
        char *comment = strstr(line, "//");
        if (comment)
            *comment = '\0';
        const char *at = line;
        skip(&at);
        if (strncmp(at, "--", 2) == 0) {
            option(at + 2);
        } else if (*at) {
            if (!begun)
                begin();
            begun = true;
            event_line(at);
        }
    }
    fclose(file);
    if (!begun)
        fail("nothing happens in it");
    advance(script.now_ns, false);
    end();
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_script(const struct dirent *entry)
{
    size_t size = strlen(entry->d_name);
    return size > 4 && strcmp(entry->d_name + size - 4, ".pkt") == 0;
}

__attribute__((constructor)) static void find_scripts(void)
{
    struct dirent **entries;
    int count = scandir(CR_NET_SCRIPTS, &entries, is_script, by_name);
    for (int i = 0; i < count; i++) {
        struct test *test = calloc(1, sizeof(*test));
        entries[i]->d_name[strlen(entries[i]->d_name) - 4] = '\0';
        test->name = entries[i]->d_name;
        test->fn = run;
        test_add(test);
    }
    if (count > 0)
        free(entries);
}
