/* A host that is handed frames: whatever comes, it stays whole, sends nothing malformed, and loses no packet.
 *
 * An input is a row of frames: a byte of how (below), two of size, then the frame from its Ethernet type on. Checksums are set right, unless a bit says to leave them: else nothing would get further than those. */
#include "host.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum how { HOW_LATER = 1, HOW_MUCH_LATER = 2, HOW_AS_IT_IS = 4, HOW_TO_ALL = 8 };

static void mend(uint8_t *frame, size_t size)
{
    uint8_t *ip = frame + 14, *inner;
    size_t room = size - 14, inner_bytes;
    struct cr__ip from, to;
    uint8_t protocol;
    uint32_t part;
    if (frame_get16(frame + 12) == 0x0800 && room >= 20) {
        size_t head = (size_t)(ip[0] & 15) * 4;
        if (head < 20 || head > room)
            return;
        frame_put16(ip + 10, 0);
        frame_put16(ip + 10, frame_fold(frame_sum(0, ip, head)));
        memcpy(&part, ip + 12, 4);
        from = cr__ip_v4(part);
        memcpy(&part, ip + 16, 4);
        to = cr__ip_v4(part);
        protocol = ip[9];
        inner = ip + head;
        inner_bytes = room - head;
        if (frame_get16(ip + 2) >= head && frame_get16(ip + 2) - head < inner_bytes)
            inner_bytes = frame_get16(ip + 2) - head;
    } else if (frame_get16(frame + 12) == 0x86dd && room >= 40) {
        memcpy(from.bytes, ip + 8, 16);
        memcpy(to.bytes, ip + 24, 16);
        protocol = ip[6];
        inner = ip + 40;
        inner_bytes = room - 40 < frame_get16(ip + 4) ? room - 40 : frame_get16(ip + 4);
    } else {
        return;
    }
    size_t at = protocol == 6 ? 16 : protocol == 17 ? 6 : 2;
    if (at + 2 > inner_bytes || (protocol != 6 && protocol != 17 && protocol != 1 && protocol != 58))
        return;
    frame_put16(inner + at, 0);
    frame_put16(inner + at, protocol == 1 ? frame_fold(frame_sum(0, inner, inner_bytes)) : frame_transport_sum(&from, &to, protocol, inner, inner_bytes));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, data + size};
    fuzz_begin(&(struct cr__tcp_config){.half_open_most = 4});
    while (input.at < input.end) {
        uint8_t frame[1600] = {0}, how = fuzz_byte(&input);
        size_t bytes = fuzz_word(&input) % 1500u + 2u;
        if (bytes > (size_t)(input.end - input.at))
            bytes = (size_t)(input.end - input.at);
        memcpy(frame, how & HOW_TO_ALL ? (const uint8_t[]){255, 255, 255, 255, 255, 255} : fuzz_ethernet[0], 6);
        memcpy(frame + 6, fuzz_ethernet[1], 6);
        memcpy(frame + 12, input.at, bytes);
        input.at += bytes;
        if (!(how & HOW_AS_IT_IS))
            mend(frame, bytes + 12);
        fuzz_inject(frame, bytes + 12);
        fuzz_wait(how & HOW_MUCH_LATER ? 20000000000ll : how & HOW_LATER ? 10000000 : 0);
    }
    fuzz_end();
    return 0;
}
