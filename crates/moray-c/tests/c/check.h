/* What the test programs share: a failed check says where, and ends the program. */
#ifndef CHECK_H
#define CHECK_H
#include <moray.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: %s\n  last error: %s\n", __FILE__, __LINE__, #condition, moray_last_error()); \
            exit(1);                                                                  \
        }                                                                             \
    } while (0)

#define OK(call) CHECK((call) == MORAY_STATUS_OK)

/* A call that is refused with a status, and a message that names the argument and what was expected and got. */
#define REFUSED(code, words, call)                                                    \
    do {                                                                              \
        CHECK((call) == (code));                                                      \
        CHECK(strstr(moray_last_error(), words) != NULL);                             \
    } while (0)

/* A number of things whose product with each of `of`, a power of two, is that of `n` in the lowest 64 bits. */
#define WRAPS(n, of) (SIZE_MAX / (of) + 1 + (n))

/* Sizes whose product is more than can be counted are refused by name, whatever their lowest bits. */
#define UNCOUNTED(words, call)                                                        \
    do {                                                                              \
        const int status = (int)(call);                                               \
        CHECK(status == MORAY_STATUS_SHAPE || status == MORAY_STATUS_LENGTH);         \
        CHECK(strstr(moray_last_error(), words) != NULL);                             \
    } while (0)

#define BYTES(array) ((MorayBytes){(array), sizeof(array)})
#define BYTES_MUT(array) ((MorayBytesMut){(array), sizeof(array)})
#define NONE ((MorayBytes){NULL, 0})

/* A number in -0.5..0.5 that looks random. */
static inline float noise(size_t i) {
    uint32_t x = (uint32_t)i * 2654435761u + 12345u;
    x ^= x >> 15;
    x *= 2246822519u;
    x ^= x >> 13;
    return (float)(x >> 8) / 16777216.0f - 0.5f;
}
#endif
