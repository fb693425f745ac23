/* Conversions of the two 16 bit floating point formats, which C compilers do not all know. */
#include <stdint.h>
#include <string.h>

static inline float bits_to_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t float_to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float from_bfloat16(uint16_t half) {
    return bits_to_float((uint32_t)half << 16);
}

static inline uint16_t to_bfloat16(float value) {
    uint32_t bits = float_to_bits(value);
    if (value != value) return 0x7fc0;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float from_half(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 0x1f, fraction = half & 0x3ff;
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * (float)fraction * 0x1p-24f;
    if (exponent == 31) return bits_to_float(sign | 0x7f800000 | fraction << 13);
    return bits_to_float(sign | (exponent + 112) << 23 | fraction << 13);
}

/* Rounds to the nearest, ties to even; beyond 65504 to infinity. */
static inline uint16_t to_half(float value) {
    uint32_t bits = float_to_bits(value), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000) return 0x7e00;
    if (size >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (size < 0x38800000) { /* below the smallest normal number: a multiple of 2^-24, which float addition rounds to */
        float shifted = bits_to_float(size) + 0.5f;
        return (uint16_t)(sign | (float_to_bits(shifted) - float_to_bits(0.5f)));
    }
    return (uint16_t)(sign | ((size + 0xfff + (size >> 13 & 1) - (112u << 23)) >> 13));
}
