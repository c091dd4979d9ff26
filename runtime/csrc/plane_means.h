// Means over planes, pixels first summed in parts: who sums which part never changes a bit.
#ifndef COMPRESS_PLANE_MEANS_H_
#define COMPRESS_PLANE_MEANS_H_

#include <algorithm>
#include <cstdint>

namespace compress {

// Pixels per partial channel sum, up to 128. They follow from the plane alone, so that the saliency does not
// depend on the number of threads; in fours, since often as many divide them.
inline int64_t sum_pixels(int64_t pixels) {
  if (pixels <= 64) return pixels;
  const int64_t parts = 4 * ((pixels + 511) / 512);
  return (pixels + parts - 1) / parts;
}
inline int64_t sum_parts(int64_t pixels) { return (pixels + sum_pixels(pixels) - 1) / sum_pixels(pixels); }

// Floats that the sums of one part take: KernelTable's abs_sums works in as many, and leaves them in the
// first `channels`.
inline int64_t part_floats(int64_t channels) { return 4 * channels; }

// means[c] from the sums of a plane of `pixels`, part after part.
inline void finish_means(const float* partial_sums, int64_t pixels, int64_t channels, float* means) {
  std::copy_n(partial_sums, channels, means);
  for (int64_t part = 1; part < sum_parts(pixels); ++part) {
    const float* const sums = partial_sums + part * part_floats(channels);
    for (int64_t c = 0; c < channels; ++c) means[c] += sums[c];
  }
  for (int64_t c = 0; c < channels; ++c) means[c] /= static_cast<float>(pixels);
}

}  // namespace compress

#endif  // COMPRESS_PLANE_MEANS_H_
