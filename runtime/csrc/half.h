// Numbers of 16 bits (IEEE 754 binary16): for what is read more often than reckoned with.
#ifndef COMPRESS_HALF_H_
#define COMPRESS_HALF_H_

#include <cstdint>
#include <cstring>

namespace compress {

struct Half {
  uint16_t bits;
};

// Exact. Internal to each file, as some are compiled for processors that others are not.
static inline float to_float(Half half) {
  // As the upper bits of a float its exponent is 112 too small; the product also mends subnormal numbers.
  constexpr float kExponent = 0x1p112f;
  const uint32_t bits = static_cast<uint32_t>(half.bits & 0x7fff) << 13;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  value *= kExponent;
  return (half.bits & 0x8000) != 0 ? -value : value;
}

static inline bool is_finite(Half half) { return (half.bits & 0x7c00) != 0x7c00; }

}  // namespace compress

#endif  // COMPRESS_HALF_H_
