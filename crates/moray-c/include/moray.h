/* The C ABI of moray. Made from the sources of the crate moray-c; do not edit. SPDX-License-Identifier: MIT OR Apache-2.0 */

#ifndef MORAY_H
#define MORAY_H

#include <stddef.h>
#include <stdint.h>

// The version of the ABI: of functions, structures and constants. A program works with a library of the same one.
#define MORAY_ABI_VERSION 1

// The version of the packed layout, to be stored with packed files.
#define MORAY_LAYOUT_VERSION 1

// Whether a call did what it is for, and if not, why. `moray_last_error` has the sentence.
typedef enum {
  // Done.
  MORAY_STATUS_OK = 0,
  // A buffer has another size than the call needs.
  MORAY_STATUS_LENGTH = 1,
  // A size that the operation does not take.
  MORAY_STATUS_SHAPE = 2,
  // An index outside its range.
  MORAY_STATUS_INDEX = 3,
  // A list that is not strictly increasing.
  MORAY_STATUS_NOT_INCREASING = 4,
  // A number that is NaN, infinite or outside the range that makes sense.
  MORAY_STATUS_VALUE = 5,
  // Options, formats or types that the operation does not take.
  MORAY_STATUS_UNSUPPORTED = 6,
  // There is no CUDA driver.
  MORAY_STATUS_DRIVER_ABSENT = 7,
  // The CUDA driver lacks functions that are needed.
  MORAY_STATUS_DRIVER_TOO_OLD = 8,
  // The library was built without its CUDA kernels.
  MORAY_STATUS_KERNELS_NOT_BUILT = 9,
  // There are no kernels for the device.
  MORAY_STATUS_UNSUPPORTED_ARCHITECTURE = 10,
  // There is not enough memory.
  MORAY_STATUS_OUT_OF_MEMORY = 11,
  // An address that is not a multiple of what the call needs.
  MORAY_STATUS_MISALIGNED = 12,
  // A kernel could not be started.
  MORAY_STATUS_LAUNCH = 13,
  // The CUDA driver refused a call.
  MORAY_STATUS_DRIVER = 14,
  // A pointer is null.
  MORAY_STATUS_NULL = 15,
  // The caller was compiled with the header of another version of the library.
  MORAY_STATUS_VERSION = 16,
  // Memory that the call writes overlaps memory that it reads or writes elsewhere.
  MORAY_STATUS_OVERLAP = 17,
  // Another thread is inside a call that writes the same handle.
  MORAY_STATUS_BUSY = 18,
  // A fault of the library itself.
  MORAY_STATUS_INTERNAL = 19,
  // Memory that kernels of the device's context do not reach.
  MORAY_STATUS_DEVICE = 20,
} MorayStatus;

// The driver's context: a `CUcontext` is a pointer to one.
typedef struct CUctx_st CUctx_st;

// The driver's stream: a `CUstream`, and a `cudaStream_t`, is a pointer to one.
typedef struct CUstream_st CUstream_st;

// Tokens quantized to int8, in memory made once. One thread writes it at a time; any number may multiply with it when none does.
typedef struct MorayActivations MorayActivations;

// What attention works in, made once. One thread uses it at a time.
typedef struct MorayAttention MorayAttention;

// The CPU: threads and an instruction set. Any number of threads may use one at once; calls that use more than one thread take turns.
typedef struct MorayCpu MorayCpu;

// A CUDA device as an engine's context has it, with the kernels that were loaded in it. Any number of threads may use one at once.
//
// Calls on it take addresses of memory of that context where others take memory of the process, and a stream of it, or null for its
// default stream. They allocate nothing, wait for nothing, are done when the stream has passed them, and can be captured in a graph.
// Addresses are multiples of 16 where nothing else is said. Sizes are compared with what the call needs, and the driver is asked whether kernels of
// the context reach the memory, unless `moray_cuda_check_memory` says not to; that the bytes between the first and the last are all there, and the
// caller's, is the caller's word.
// The context that is current to the thread stays so.
typedef struct MorayCuda MorayCuda;

// A matrix that is held by input, in memory of the library's: the weights of one input lie beside each other, so that those of an input
// that no token keeps are not read. Never changes, so that any number of threads may use it.
typedef struct MorayInputWeight MorayInputWeight;

// What products by input work in; it grows to the largest call that it has seen. One thread uses it at a time.
typedef struct MorayInputWorkspace MorayInputWorkspace;

// Keys and values of layers and sequences, in memory of the library's. One thread writes it at a time; any number may attend when none does.
typedef struct MorayKvCache MorayKvCache;

// The weights of a gated MLP, neuron by neuron, in memory of the library's. Never changes, so that any number of threads may use it.
typedef struct MorayMlp MorayMlp;

// What a call of the sparse MLP works in, made once. One thread uses it at a time.
typedef struct MorayMlpWorkspace MorayMlpWorkspace;

// A weight matrix w[N, K] as codes and scales in the order of rows. Never changes, so that any number of threads may read it.
typedef struct MorayQuantized MorayQuantized;

// A packed weight: of its own memory, or over the caller's. Never changes, so that any number of threads may use it.
typedef struct MorayWeight MorayWeight;

// An instruction set of a CPU or the compute capability of a CUDA device: one of the `MORAY_ARCH_..` constants, or
// `MORAY_ARCH_CUDA + 10 * major + minor`.
typedef uint32_t MorayArch;

// What the scale of a group is: one of the `MORAY_GROUP_SCALE_..` constants.
typedef uint32_t MorayGroupScale;

// What a group has besides its scale: one of the `MORAY_OFFSET_..` constants.
typedef uint32_t MorayOffset;

// How the codes of a weight matrix w[N, K] become numbers. With g = k / group_size:
//
// - no groups: w = channel[n] * (code - centre), centre 8 for 4 bits and 0 for 8
// - group scales in f16: w = group[n, g] * (code - centre), group * (code - zero_point) or group * code + offset
// - whole-numbered group scales: w = channel[n] * group[n, g] * (code - 8)
// - QQQ's: w = channel[n] * round((code - 8) * group[n, g])
typedef struct {
  // Of a code: 4 or 8.
  uint32_t bits;
  // K values that share a group's scale: 32, 64 or 128; 0 for no groups, which leaves the next two without meaning, and 0.
  uint32_t group_size;
  // What the scale of a group is.
  MorayGroupScale group_scale;
  // What a group has besides.
  MorayOffset offset;
} MorayFormat;

// Bytes of each section of a packed weight; 0 for those that its format does not have.
typedef struct {
  // Packed codes.
  size_t codes;
  // f32: the channels' scales.
  size_t channel;
  // f16 or u8: the groups' scales.
  size_t group;
  // f16 or u8: the groups' offsets or zero points.
  size_t offset;
} MoraySectionBytes;

// An operation: one of the `MORAY_OP_..` constants.
typedef uint32_t MorayOp;

// The type of elements: one of the `MORAY_F..` constants.
typedef uint32_t MorayDtype;

// A question about an operation.
typedef struct {
  // `sizeof(MorayQuery)`.
  uint32_t struct_size;
  // The operation.
  MorayOp op;
  // Of the weights; bits 0 for weights that are not quantized.
  MorayFormat format;
  // The type that the operation's constant names.
  MorayDtype dtype;
  // Where it would run.
  MorayArch arch;
} MorayQuery;

// An answer.
typedef struct {
  // 1 if it runs, 0 if not.
  uint32_t supported;
  // The arithmetic of a call in words if it runs, else why it does not; until the next question of this thread.
  const char *words;
} MoraySupport;

// Memory that a call reads. Null and 0 bytes stand for a buffer that is left out, where one may be.
typedef struct {
  // Where it begins, a multiple of its elements' size.
  const void *data;
  // Its size, which has to be what the call needs.
  size_t bytes;
} MorayBytes;

// The parts of a weight that are read: of a packed one its sections, of a plain one codes int8 [N, K], channel f32 [N], group
// f16 or u8 [N, K / group_size] and offset f16 or u8 [N, K / group_size], row-major. Null for those that the format does not have.
typedef struct {
  // The codes.
  MorayBytes codes;
  // The channels' scales.
  MorayBytes channel;
  // The groups' scales.
  MorayBytes group;
  // The groups' offsets or zero points.
  MorayBytes offset;
} MoraySections;

// Memory that a call writes.
typedef struct {
  // Where it begins, a multiple of its elements' size.
  void *data;
  // Its size, which has to be what the call needs.
  size_t bytes;
} MorayBytesMut;

// A block type of GGUF files, by the number that they give it.
typedef uint32_t MorayBlock;

// Which exporter's arrays: one of the `MORAY_LAYOUT_..` constants. P = 32 / bits codes stand in a word, the first in its lowest bits.
typedef uint32_t MorayExporter;

// A matrix w[N, K] = scale * (code - zero_point) as a checkpoint's arrays.
typedef struct {
  // `sizeof(MorayExported)`.
  uint32_t struct_size;
  // The layout.
  MorayExporter layout;
  // Of a code: 4 or 8.
  uint32_t bits;
  // Of `scales`.
  MorayDtype scale_dtype;
  // Output features.
  size_t n;
  // Input features.
  size_t k;
  // i32 words of codes.
  MorayBytes codes;
  // A scale for each group; they may be negative.
  MorayBytes scales;
  // i32 words of zero points; left out for the middle of the codes (8, or 128) everywhere.
  MorayBytes zeros;
  // i32 [K], the group of each input (g_idx); left out where neighbours share one.
  MorayBytes group_of;
} MorayExported;

// Memory for the sections of a packed weight, of `moray_section_bytes`; null for those that the format does not have.
typedef struct {
  // The codes.
  MorayBytesMut codes;
  // The channels' scales.
  MorayBytesMut channel;
  // The groups' scales.
  MorayBytesMut group;
  // The groups' offsets or zero points.
  MorayBytesMut offset;
} MoraySectionsMut;

// How finely activations are scaled: one of the `MORAY_ACT_SCALES_..` constants.
typedef uint32_t MorayActScales;

// What activations hold. Addresses are those of the handle's memory, until the next call that writes it.
typedef struct {
  // Tokens M.
  size_t m;
  // Features K.
  size_t k;
  // int8 [M, K rounded up to 64]; those past K are 0.
  MorayBytes codes;
  // f32 [M] or [M, ceil(K / 128)].
  MorayBytes scale;
  // i32 [M, K rounded up to 64, / 32]: sums of the codes over each 32 of K.
  MorayBytes sums;
} MorayActivationsView;

// A multiplication y = x * w^T + bias + residual.
typedef struct {
  // `sizeof(MorayLinear)`.
  uint32_t struct_size;
  // Of `y` and `residual`.
  MorayDtype dtype;
  // w[N, K].
  const MorayWeight *weight;
  // x[M, K].
  const MorayActivations *x;
  // f32 [N], or left out.
  MorayBytes bias;
  // [M, N], or left out; apart from `y`.
  MorayBytes residual;
  // [M, N], row-major.
  MorayBytesMut y;
  // The first output feature that is computed, a multiple of 16.
  size_t row_begin;
  // One past the last, a multiple of 16 or N; 0 stands for N.
  size_t row_end;
} MorayLinear;

// The gate's nonlinearity: one of the `MORAY_ACTIVATION_..` constants.
typedef uint32_t MorayActivation;

// The sizes and the nonlinearity of an MLP.
typedef struct {
  // Features of x and y.
  size_t d_model;
  // Neurons.
  size_t d_ff;
  // The nonlinearity of the gate.
  MorayActivation activation;
} MorayMlpShape;

// f32 biases of an MLP; those that are left out are absent.
typedef struct {
  // f32 [d_ff].
  MorayBytes gate;
  // f32 [d_ff].
  MorayBytes up;
  // f32 [d_model].
  MorayBytes down;
} MorayMlpBiases;

// The kind of a selection: one of the `MORAY_SELECT_..` constants.
typedef uint32_t MoraySelect;

// What a score is the size of: one of the `MORAY_SCORE_..` constants.
typedef uint32_t MorayScore;

// Which neurons each token of a call computes. What its kind does not name is not looked at.
typedef struct {
  // `sizeof(MoraySelection)`.
  uint32_t struct_size;
  // The kind.
  MoraySelect kind;
  // List, union: u32, strictly increasing, below d_ff.
  MorayBytes list;
  // Masks, union: u64 [tokens, ceil(d_ff / 64)], neuron j is bit j % 64 of word j / 64.
  MorayBytes masks;
  // Threshold, top-k: what is scored.
  MorayScore score;
  // Threshold: finite, at least 0.
  float threshold;
  // Top-k: 1 to the number of what is scored; the lower index first where scores are equal.
  size_t k;
  // Threshold, top-k: f32 [d_ff] (d_model for inputs) that scores are multiplied with, or left out.
  MorayBytes channel_scale;
} MoraySelection;

// A call of the sparse MLP.
typedef struct {
  // `sizeof(MorayMlpForward)`.
  uint32_t struct_size;
  // The weights.
  const MorayMlp *mlp;
  // What the call works in.
  MorayMlpWorkspace *workspace;
  // Which neurons; null for all.
  const MoraySelection *selection;
  // f32 [tokens, d_model].
  MorayBytes x;
  // f32 [tokens, d_model], or left out; apart from `y`.
  MorayBytes residual;
  // f32 [tokens, d_model].
  MorayBytesMut y;
} MorayMlpForward;

// The gate and the products of listed neurons. L is how many are listed.
typedef struct {
  // `sizeof(MorayMlpGateUp)`.
  uint32_t struct_size;
  // 1 if `gate` is read, 0 if it is written.
  uint32_t gate_is_given;
  // The weights.
  const MorayMlp *mlp;
  // f32 [tokens, d_model]; left out for 4-bit weights.
  MorayBytes x;
  // The inputs in int8 with one scale for each token, for 4-bit weights; else null.
  const MorayActivations *activations;
  // u32 [L], strictly increasing, below d_ff: the neurons of the whole call.
  MorayBytes list;
  // f32 [tokens, L]: act(gate * x), read or written; it may be left out where `hidden` is not and the gate is not given.
  MorayBytesMut gate;
  // f32 [tokens, L]: act(gate * x) * (up * x); left out for the gate alone.
  MorayBytesMut hidden;
  // The first position in the list that is computed, a multiple of 16.
  size_t begin;
  // One past the last, a multiple of 16 or L; 0 stands for L.
  size_t end;
} MorayMlpGateUp;

// A choice among values, such as the gate of all neurons.
typedef struct {
  // `sizeof(MorayMlpSelect)`.
  uint32_t struct_size;
  // By a threshold or top-k; what it says is scored is not looked at.
  const MoraySelection *selection;
  // Values of a token.
  size_t n;
  // f32 [tokens, n].
  MorayBytes values;
  // u64 [tokens, ceil(n / 64)].
  MorayBytesMut masks;
  // u32 [n], of which the first are written: what any token keeps; or left out.
  MorayBytesMut list;
} MorayMlpSelect;

// The down projection of products that have been computed. L is how many neurons are listed.
typedef struct {
  // `sizeof(MorayMlpDown)`.
  uint32_t struct_size;
  // The weights.
  const MorayMlp *mlp;
  // What the call works in.
  MorayMlpWorkspace *workspace;
  // u32 [L], strictly increasing, below d_ff.
  MorayBytes list;
  // f32 [tokens, L], 0 for neurons that a token does not keep.
  MorayBytes hidden;
  // f32 [tokens, d_model], or left out; apart from `y`.
  MorayBytes residual;
  // f32 [tokens, d_model].
  MorayBytesMut y;
  // The first column of y that is computed.
  size_t column_begin;
  // One past the last; 0 stands for d_model.
  size_t column_end;
} MorayMlpDown;

// A product over the inputs above a threshold.
typedef struct {
  // `sizeof(MorayByInput)`.
  uint32_t struct_size;
  // Finite, at least 0: inputs that are not larger count as zero, and their weights are not read.
  float threshold;
  // w[N, K].
  const MorayInputWeight *weight;
  // What the call works in.
  MorayInputWorkspace *workspace;
  // f32 [M, K].
  MorayBytes x;
  // f32 [N], or left out.
  MorayBytes bias;
  // f32 [M, N], or left out; apart from `y`.
  MorayBytes residual;
  // f32 [M, N].
  MorayBytesMut y;
  // The first output feature that is computed.
  size_t row_begin;
  // One past the last; 0 stands for N.
  size_t row_end;
} MorayByInput;

// The dimensions of a cache.
typedef struct {
  // Layers.
  size_t n_layers;
  // Sequences held at once.
  size_t n_slots;
  // Key and value heads of a layer.
  size_t n_kv_heads;
  // Elements of a head: a multiple of 8, at most 512.
  size_t head_dim;
  // Positions of a sequence.
  size_t capacity;
} MorayKvShape;

// One row of K and one of V in a cache.
typedef struct {
  // The layer.
  size_t layer;
  // The sequence.
  size_t slot;
  // The KV head.
  size_t kv_head;
  // The position.
  size_t position;
} MorayKvRow;

// The head layout of a layer, and how large its calls are.
typedef struct {
  // Query heads: a multiple of `n_kv_heads`.
  size_t n_q_heads;
  // Key and value heads.
  size_t n_kv_heads;
  // Elements of a head: a multiple of 8, at most 512.
  size_t head_dim;
  // Most tokens of a call.
  size_t max_rows;
  // Most spans of a call.
  size_t max_spans;
  // Longest context; the cache's capacity.
  size_t capacity;
} MorayAttentionShape;

// Which heads run: one of the `MORAY_HEADS_..` constants.
typedef uint32_t MorayHeads;

// A run of consecutive tokens of one sequence. The tokens of a call's spans stand one after another in the M rows of q, k, v and out.
typedef struct {
  // The sequence's place in the cache.
  size_t slot;
  // Position of the first token.
  size_t start;
  // Number of tokens; may be 0.
  size_t len;
} MoraySpan;

// One layer of a KV cache in memory of the caller's: of the process for `moray_attend`, of a device for `moray_cuda_attend`. Row `position` of a KV
// head begins at page * page_stride + kv_head * head_stride + row * row_stride elements: page and row are the slot and the position without a
// page table, else the slot's entry for position / page_size and position % page_size. K and V may lie in one allocation, and rows may be padded.
typedef struct {
  // What rows are stored as: `MORAY_F32`, `MORAY_F16`, `MORAY_BF16` or `MORAY_INT8`.
  MorayDtype dtype;
  // Keys, turned by the rotary embedding; as many bytes as the strides reach, or more.
  MorayBytesMut k;
  // Values, as `k`.
  MorayBytesMut v;
  // f32 [n_pages, n_kv_heads, page_size] for int8, else left out.
  MorayBytesMut k_scale;
  // As `k_scale`.
  MorayBytesMut v_scale;
  // u32 [n_slots, n_kv_heads, 2 * ceil(capacity / 64)], bit p % 32 of word p / 32 says that position p is held; left out where every
  // position before a span's end is.
  MorayBytesMut present;
  // u32 [n_slots, max_pages], each below `n_pages`; left out where slot s is page s. On the CPU entries of pages that no span of a call reaches
  // are not looked at, and others are checked.
  MorayBytes page_table;
  // Sequences that spans may name.
  size_t n_slots;
  // Pages at `k` and `v`.
  size_t n_pages;
  // Positions of a page: at least the capacity where there is no table, on devices a power of two where there is one.
  size_t page_size;
  // Entries of a slot in the table.
  size_t max_pages;
  // Elements from one page to the next; on devices all strides are multiples of 16 bytes.
  size_t page_stride;
  // Elements from one KV head's rows to the next's.
  size_t head_stride;
  // Elements from one position to the next.
  size_t row_stride;
  // Positions of a slot.
  size_t capacity;
} MorayKvPages;

// A call over the tokens of one layer.
typedef struct {
  // `sizeof(MorayAttend)`.
  uint32_t struct_size;
  // Which heads run.
  MorayHeads heads;
  // The head layout, and what attention works in.
  MorayAttention *attention;
  // Keys and values; null where `pages` has them.
  MorayKvCache *cache;
  // The layer, an index into the cache; not looked at with `pages`.
  size_t layer;
  // The spans, each slot at most once.
  const MoraySpan *spans;
  // How many.
  size_t n_spans;
  // u32: the lists [n_spans, width] or masks; left out for all heads.
  MorayBytes list;
  // u32 [n_spans]: the lengths of lists; left out for all heads and masks.
  MorayBytes counts;
  // `moray_attend`: the first span that is computed.
  size_t span_begin;
  // `moray_attend`: one past the last; 0 stands for `n_spans`.
  size_t span_end;
  // `moray_attend`: the first KV head whose query heads are computed.
  size_t kv_head_begin;
  // `moray_attend`: one past the last; 0 stands for `n_kv_heads`.
  size_t kv_head_end;
  // The layer's keys and values in memory of the caller's, in place of `cache`; or null. One thread writes them at a time, and none meanwhile
  // reads them: that is the caller's word.
  const MorayKvPages *pages;
} MorayAttend;

// What is stored of K and V of a head that no query head reads: one of the `MORAY_KV_..` constants.
typedef uint32_t MorayKvPolicy;

// What is quantized: one of the `MORAY_SOURCE_..` constants.
typedef uint32_t MoraySource;

// Quantized tokens in device memory: written by `moray_cuda_quantize`, read by any number of products.
typedef struct {
  // Tokens M.
  size_t m;
  // Features K, a multiple of 32.
  size_t k;
  // How finely they are scaled.
  MorayActScales scales;
  // As many bytes as `moray_cuda_quantize_prepare` says, or more.
  MorayBytesMut memory;
} MorayCudaActivations;

// A quantization.
typedef struct {
  // `sizeof(MorayCudaQuantize)`.
  uint32_t struct_size;
  // What is quantized.
  MoraySource source;
  // Of x.
  MorayDtype dtype;
  // Of the gate, for `MORAY_SOURCE_GATED`; else 0.
  MorayActivation activation;
  // For `MORAY_SOURCE_RMS_NORM`; else not looked at.
  float eps;
  // [M, K], or [M, 2 * K]; row-major.
  MorayBytes x;
  // f32 [K] for `MORAY_SOURCE_RMS_NORM`; else left out.
  MorayBytes norm_weight;
  // Where the tokens go.
  MorayCudaActivations out;
} MorayCudaQuantize;

// A packed weight w[N, K] in device memory: the sections that `moray_pack` writes, or `moray_weight_describe` names, copied as they are.
typedef struct {
  // Output features, at most 2^30.
  size_t n;
  // Input features.
  size_t k;
  // The format.
  MorayFormat format;
  // `MORAY_LAYOUT_VERSION` as it was when the weight was packed.
  uint32_t layout_version;
  // The sections, of `moray_section_bytes`; left out where the format has none.
  MoraySections sections;
} MorayCudaWeight;

// A multiplication y = x * w^T + bias + residual.
typedef struct {
  // `sizeof(MorayCudaLinear)`.
  uint32_t struct_size;
  // Of `y` and `residual`.
  MorayDtype dtype;
  // w[N, K].
  MorayCudaWeight weight;
  // x[M, K].
  MorayCudaActivations x;
  // f32 [N], or left out.
  MorayBytes bias;
  // [M, N], or left out; apart from `y`.
  MorayBytes residual;
  // [M, N], row-major.
  MorayBytesMut y;
  // As many bytes as `moray_cuda_linear_prepare` says, or more: zeros before the first call with it, and left so by every call that
  // runs to its end. Calls that may run at once have one each.
  MorayBytesMut workspace;
} MorayCudaLinear;

// A quantization and a multiplication: y = x' * w^T + bias + residual, x' being x, its RMSNorm or act(gate) * up of it in int8. Of few tokens
// it is one launch, where that is faster. Gated, y = act(g) * u, where g and u are the first and the second half of these outputs.
typedef struct {
  // `sizeof(MorayCudaProduct)`.
  uint32_t struct_size;
  // Of `y` and `residual`.
  MorayDtype dtype;
  // Of `x`.
  MorayDtype x_dtype;
  // What is quantized; of gated outputs not `MORAY_SOURCE_GATED`.
  MoraySource source;
  // How finely tokens are scaled.
  MorayActScales scales;
  // Whether outputs are gated: 0 or 1.
  uint32_t gated;
  // act, of gated outputs and of `MORAY_SOURCE_GATED`; else not looked at.
  MorayActivation activation;
  // For `MORAY_SOURCE_RMS_NORM`; else not looked at.
  float eps;
  // Tokens M, at most 1048560; of gated outputs 1 to 4, times K rounded up to 64 at most 16384.
  size_t m;
  // w[N, K]; of gated outputs N is a multiple of 32.
  MorayCudaWeight weight;
  // [M, K], or [M, 2 * K] gate before up for `MORAY_SOURCE_GATED`, row-major.
  MorayBytes x;
  // f32 [K] for `MORAY_SOURCE_RMS_NORM`; else left out.
  MorayBytes norm_weight;
  // f32 [N], or left out.
  MorayBytes bias;
  // [M, N], or left out, as it is of gated outputs; apart from `y`.
  MorayBytes residual;
  // [M, N], gated [M, N / 2], row-major.
  MorayBytesMut y;
  // As many bytes as `moray_cuda_product_prepare` says, or more: zeros before the first call with it, and good for the next call of any weight
  // and no more tokens after every one that runs to its end. Calls that may run at once have one each.
  MorayBytesMut workspace;
} MorayCudaProduct;

// A normalisation of rows, or of each head of a row.
typedef struct {
  // `sizeof(MorayCudaRmsNorm)`.
  uint32_t struct_size;
  // Added to the mean square.
  float eps;
  // Rows M, 1 to 65535.
  size_t m;
  // Heads of a row, 1 to 65535; 1 where rows are whole.
  size_t heads;
  // Features of a head, a multiple of 4.
  size_t k;
  // f32 [M, heads, k], rows `x_stride` apart.
  MorayBytes x;
  // Elements from one row of x to the next, a multiple of 4.
  size_t x_stride;
  // f32 [k].
  MorayBytes weight;
  // f32 [M, heads, k], rows `y_stride` apart; x itself, or apart from it.
  MorayBytesMut y;
  // Elements from one row of y to the next, a multiple of 4.
  size_t y_stride;
} MorayCudaRmsNorm;

// Masks of what each token keeps of n values, such as a predictor's scores of neurons.
typedef struct {
  // `sizeof(MorayCudaSelect)`.
  uint32_t struct_size;
  // `MORAY_SELECT_THRESHOLD` or `MORAY_SELECT_TOP_K`.
  MoraySelect kind;
  // Threshold: finite, at least 0.
  float threshold;
  // Top-k: 1 to n; the lower index first where scores are equal.
  size_t k;
  // Tokens.
  size_t tokens;
  // Values of a token, 1 to 2^24.
  size_t n;
  // f32 [tokens, n], rows `stride` apart, or more; their size is the score, and what is NaN is not kept.
  MorayBytes values;
  // Elements from one token's values to the next's.
  size_t stride;
  // f32 [n] that scores are multiplied with, not negative; or left out.
  MorayBytes channel_scale;
  // u64 [tokens, ceil(n / 64)]: value i is bit i % 64 of word i / 64.
  MorayBytesMut masks;
} MorayCudaSelect;

// The list of what any mask keeps.
typedef struct {
  // `sizeof(MorayCudaUnion)`.
  uint32_t struct_size;
  // Masks.
  size_t tokens;
  // Bits of a mask, 1 to 2^24; those past n are 0.
  size_t n;
  // u64 [tokens, ceil(n / 64)].
  MorayBytes masks;
  // u32 [n]: strictly increasing as far as the count goes.
  MorayBytesMut list;
  // u32 [1].
  MorayBytesMut count;
} MorayCudaUnion;

// What the rows of neurons are stored as: one of the `MORAY_ROWS_..` constants.
typedef uint32_t MorayRows;

// One matrix of an MLP, a neuron a row.
typedef struct {
  // [d_ff, d_model], down transposed; aligned to 16 bytes.
  MorayBytesMut rows;
  // Of 4 bits, aligned to 32 bytes; else left out.
  MorayBytesMut scales;
  // f32 [d_ff], or [d_model] of down; or left out.
  MorayBytesMut bias;
  // Values that share a scale of f16; 0 for scales of rows, or features, and for 16 bits.
  uint32_t group_size;
  // What a group has besides its scale.
  MorayOffset offset;
} MorayCudaRows;

// The weights of a gated MLP in memory of the caller's, as devices read them.
typedef struct {
  // The sizes and the nonlinearity.
  MorayMlpShape shape;
  // What rows are stored as.
  MorayRows format;
  // Its rows are activated.
  MorayCudaRows gate;
  // Its rows are multiplied with the activated ones.
  MorayCudaRows up;
  // What the products are multiplied with.
  MorayCudaRows down;
} MorayCudaMlpWeights;

// Which neurons each token of a call computes, by memory of the device. What its kind does not name is not looked at.
typedef struct {
  // The kind: one of the `MORAY_SELECT_..` constants.
  MoraySelect kind;
  // Threshold, top-k: what is scored.
  MorayScore score;
  // List, union: u32 [d_ff], strictly increasing as far as the count goes.
  MorayBytes list;
  // List, union: u32 [1]; more than d_ff counts as d_ff.
  MorayBytes count;
  // Masks, union: u64 [tokens, ceil(d_ff / 64)], neuron j is bit j % 64 of word j / 64.
  MorayBytes masks;
  // Threshold, top-k: f32 [d_ff] (d_model for inputs) that scores are multiplied with, or left out.
  MorayBytes channel_scale;
  // Threshold: finite, at least 0.
  float threshold;
  // Top-k: 1 to the number of what is scored; the lower index first where scores are equal.
  size_t k;
} MorayCudaSelection;

// A call of the sparse MLP.
typedef struct {
  // `sizeof(MorayCudaMlp)`.
  uint32_t struct_size;
  // Of x.
  MorayDtype x_dtype;
  // Of y and residual.
  MorayDtype y_dtype;
  // The rows of every neuron.
  MorayCudaMlpWeights weights;
  // Which neurons.
  MorayCudaSelection selection;
  // Tokens.
  size_t tokens;
  // Tokens of the calls that share the workspace at most, 1 to 512; results depend on it.
  size_t max_tokens;
  // [tokens, d_model].
  MorayBytes x;
  // [tokens, d_model], or left out; apart from `y`.
  MorayBytes residual;
  // [tokens, d_model].
  MorayBytesMut y;
  // u32 [d_ff]: where the call lists the neurons that any token keeps, after masks and after scores on the gate or the product; may be left
  // out otherwise.
  MorayBytesMut kept;
  // u32 [1]: how many they are.
  MorayBytesMut kept_count;
  // As many bytes as `moray_cuda_mlp_prepare` says, or more. Calls that may run at once have one each.
  MorayBytesMut workspace;
} MorayCudaMlp;

// The gate and the products of neurons. A row of them is d_ff rounded up to 32 values, the stride.
typedef struct {
  // `sizeof(MorayCudaMlpGateUp)`.
  uint32_t struct_size;
  // Of x.
  MorayDtype x_dtype;
  // 1 if `gate` is read, 0 if it is written.
  uint32_t gate_is_given;
  // The rows of every neuron; those of down are not looked at.
  MorayCudaMlpWeights weights;
  // u32 [d_ff], strictly increasing as far as `count` goes; left out, with it, for all neurons.
  MorayBytes list;
  // u32 [1].
  MorayBytes count;
  // u64 [tokens, ceil(d_ff / 64)]: which neurons each token keeps, others are 0 in `hidden`; or left out.
  MorayBytes masks;
  // Tokens.
  size_t tokens;
  // Tokens of the calls that share the workspace at most, 1 to 512; results depend on it.
  size_t max_tokens;
  // [tokens, d_model].
  MorayBytes x;
  // f32 [tokens, stride]: act(gate * x), written by position in the list, or read by neuron.
  MorayBytesMut gate;
  // f32 [tokens, stride]: act(gate * x) * (up * x) by position in the list; left out for the gate alone.
  MorayBytesMut hidden;
  // As many bytes as `moray_cuda_mlp_gate_up_prepare` says, or more: what `moray_cuda_mlp_down` reads besides `hidden` is left there.
  MorayBytesMut workspace;
} MorayCudaMlpGateUp;

// The sums over products of neurons.
typedef struct {
  // `sizeof(MorayCudaMlpDown)`.
  uint32_t struct_size;
  // Of y and residual.
  MorayDtype y_dtype;
  // The rows of every neuron; those of gate and up are not looked at.
  MorayCudaMlpWeights weights;
  // u32 [d_ff]: the list of the call that made `hidden`, or left out as there.
  MorayBytes list;
  // u32 [1].
  MorayBytes count;
  // Tokens.
  size_t tokens;
  // As of the call that made `hidden`.
  size_t max_tokens;
  // f32 [tokens, stride] by position in the list, as `moray_cuda_mlp_gate_up` made it, or smaller in size, as by a mask; aligned to 16 bytes.
  MorayBytes hidden;
  // [tokens, d_model], or left out; apart from `y`.
  MorayBytes residual;
  // [tokens, d_model].
  MorayBytesMut y;
  // That of the call that made `hidden`, which nothing else has used since.
  MorayBytesMut workspace;
} MorayCudaMlpDown;

// A product over the inputs above a threshold.
typedef struct {
  // `sizeof(MorayCudaByInput)`.
  uint32_t struct_size;
  // Of w.
  MorayDtype dtype;
  // Finite, at least 0: inputs that are not larger count as zero, and their weights are not read.
  float threshold;
  // Tokens M, up to 524280.
  size_t m;
  // Output features.
  size_t n;
  // Input features.
  size_t k;
  // [K, N]: an input's weights are a row. At least `row_bytes` times K, but for what of the last row is past its elements, rounded up to 16.
  MorayBytes w;
  // Bytes from one row of w to the next, a multiple of 16.
  size_t row_bytes;
  // f32 [M, K].
  MorayBytes x;
  // f32 [N], or left out.
  MorayBytes bias;
  // f32 [M, N], or left out; apart from `y`.
  MorayBytes residual;
  // f32 [M, N].
  MorayBytesMut y;
} MorayCudaByInput;

// A weight w[N, K] of 4 bits that is held by input, in memory of the caller's, as devices read it.
typedef struct {
  // Output features.
  size_t n;
  // Input features.
  size_t k;
  // [K, d / 2], d = N rounded up to 32: an input's codes, 16 bytes for each 32 outputs, byte i of them holding output i low and i + 16
  // high; aligned to 16 bytes.
  MorayBytesMut rows;
  // f32 [d] where channels have the scales; else u16 [K / group_size, parts, d]: f16 scales, then f16 offsets or zero points if there are
  // any. Aligned to 16 bytes.
  MorayBytesMut scales;
  // Inputs that share a scale of f16; 0 for scales of channels.
  uint32_t group_size;
  // What a group has besides its scale.
  MorayOffset offset;
} MorayCudaInputRows;

// A product over the inputs above a threshold with a weight of 4 bits.
typedef struct {
  // `sizeof(MorayCudaByInputFourBit)`.
  uint32_t struct_size;
  // Finite, at least 0: inputs that are not larger count as zero, and their weights are not read.
  float threshold;
  // Tokens M, up to 524280.
  size_t m;
  // w[N, K].
  MorayCudaInputRows weight;
  // f32 [M, K], aligned to 16 bytes.
  MorayBytes x;
  // f32 [N], or left out.
  MorayBytes bias;
  // f32 [M, N], or left out; apart from `y`.
  MorayBytes residual;
  // f32 [M, N].
  MorayBytesMut y;
  // As many bytes as `moray_cuda_by_input_four_bit_prepare` says, or more, of anything; calls that may run at once have one each.
  MorayBytesMut workspace;
  // u32 [(N + 127) / 128], or more: zeros before the first call with it, and left so by every call that runs to its end; calls that may
  // run at once have one each.
  MorayBytesMut counters;
} MorayCudaByInputFourBit;

// The tokens of a call and the heads that run for them. Kernels read spans, lists and masks, so that a graph replays with others as
// long as the numbers here hold.
typedef struct {
  // `MorayCudaSpan` [n_spans].
  MorayBytes records;
  // Spans, at most 65535.
  size_t n_spans;
  // Tokens of the longest at most.
  size_t longest;
  // M, the tokens of all at most.
  size_t rows;
  // Which heads run.
  MorayHeads heads;
  // u32: the lists [n_spans, width] or masks [n_spans, ceil(n_q_heads / 32)]; left out for all heads.
  MorayBytes list;
  // u32 [n_spans]: the lengths of lists; left out for all heads and masks.
  MorayBytes counts;
  // Entries of a span's list.
  size_t width;
  // Query heads: a multiple of `n_kv_heads`.
  size_t n_q_heads;
  // Key and value heads.
  size_t n_kv_heads;
  // Elements of a head: a multiple of 8, at most 256.
  size_t head_dim;
} MorayCudaSpans;

// The writing of a call's keys and values.
typedef struct {
  // `sizeof(MorayCudaWriteKv)`.
  uint32_t struct_size;
  // Of q, k and v.
  MorayDtype dtype;
  // What is stored for a KV head that no query head reads; holes need `kv.present`.
  MorayKvPolicy policy;
  // The cache.
  MorayKvPages kv;
  // The tokens and heads.
  MorayCudaSpans spans;
  // [M, n_kv_heads, head_dim], rows `kv_stride` apart, or more.
  MorayBytes k;
  // As `k`.
  MorayBytes v;
  // Elements from one token's k, and v, to the next.
  size_t kv_stride;
  // [M, n_q_heads, head_dim], rows `q_stride` apart, or more: queries to be turned; or left out.
  MorayBytes q;
  // Elements from one token's q to the next.
  size_t q_stride;
  // f32 [M, n_q_heads, head_dim]: where they go; left out where `q` is. Rows of heads that do not run stay as they are.
  MorayBytesMut q_out;
  // f32 [context, head_dim]: head_dim / 2 cosines, then as many sines, of each position; left out where q and k are turned already.
  MorayBytes rope;
  // Positions in the table.
  size_t context;
} MorayCudaWriteKv;

// Attention of a call's tokens.
typedef struct {
  // `sizeof(MorayCudaAttend)`.
  uint32_t struct_size;
  // Of `out`.
  MorayDtype out_dtype;
  // The cache, with the call's own tokens written.
  MorayKvPages kv;
  // The tokens and heads.
  MorayCudaSpans spans;
  // Most spans of the engine's calls: by it contexts are cut into parts, on which results of few tokens depend.
  size_t max_spans;
  // f32 [M, n_q_heads, head_dim], turned by the rotary embedding.
  MorayBytes q;
  // [M, n_q_heads, head_dim]; all of it is written.
  MorayBytesMut out;
  // As many bytes as `moray_cuda_attend_prepare` says, or more; left out where it says 0. Calls that may run at once have one each.
  MorayBytesMut workspace;
} MorayCudaAttend;

// The writing of a call's keys and values and the attention of its tokens. It is one launch where (tokens of the longest span) * (query heads of
// a KV head) is at most 16, as in a decode step, else two.
typedef struct {
  // `sizeof(MorayCudaWriteAttend)`.
  uint32_t struct_size;
  // Of q, k and v.
  MorayDtype dtype;
  // Of `out`.
  MorayDtype out_dtype;
  // What is stored for a KV head that no query head reads; holes need `kv.present`.
  MorayKvPolicy policy;
  // The cache.
  MorayKvPages kv;
  // The tokens and heads.
  MorayCudaSpans spans;
  // Most spans of the engine's calls: by it contexts are cut into parts, on which results of few tokens depend.
  size_t max_spans;
  // [M, n_q_heads, head_dim], rows `q_stride` apart, or more: queries as they are projected.
  MorayBytes q;
  // Elements from one token's q to the next.
  size_t q_stride;
  // [M, n_kv_heads, head_dim], rows `kv_stride` apart, or more.
  MorayBytes k;
  // As `k`.
  MorayBytes v;
  // Elements from one token's k, and v, to the next.
  size_t kv_stride;
  // f32 [context, head_dim]: head_dim / 2 cosines, then as many sines, of each position; left out where q and k are turned already.
  MorayBytes rope;
  // Positions in the table.
  size_t context;
  // [M, n_q_heads, head_dim]; all of it is written.
  MorayBytesMut out;
  // As many bytes as `moray_cuda_write_attend_prepare` says, or more. Calls that may run at once have one each.
  MorayBytesMut workspace;
  // u32 [n_spans, n_kv_heads], or more: zeros before the first call with them, and left so by every call that runs to its end. Parts of a context
  // are merged by the block that comes last then; left out, or where it is two launches, by a launch of its own, to the same numbers.
  MorayBytesMut counters;
} MorayCudaWriteAttend;

// A run of consecutive tokens of one sequence, as kernels read it.
typedef struct {
  // The sequence's place in the cache, each at most once in a call.
  uint32_t slot;
  // Position of the first token.
  uint32_t start;
  // Tokens.
  uint32_t len;
  // Row of the first token in q, k, v and out: the tokens of the spans before it.
  uint32_t first_row;
} MorayCudaSpan;

// 4 bytes.
#define MORAY_F32 0

// IEEE half precision.
#define MORAY_F16 1

// bfloat16.
#define MORAY_BF16 2

// The best instruction set of this machine.
#define MORAY_ARCH_NATIVE 0

// No vector instructions.
#define MORAY_ARCH_PORTABLE 1

// AVX2 with FMA and F16C.
#define MORAY_ARCH_AVX2 2

// AVX2 with the 256-bit dot-product instructions (AVX-VNNI).
#define MORAY_ARCH_AVX_VNNI 3

// AVX-512 F, BW, DQ, VL with VNNI.
#define MORAY_ARCH_AVX512_VNNI 4

// What the compute capability of a CUDA device is added to, as 10 times its first number and its second.
#define MORAY_ARCH_CUDA 1000

// f16, and no scale of the channel.
#define MORAY_GROUP_SCALE_F16 1

// A whole number of 1 to 16 over the channel's scale.
#define MORAY_GROUP_SCALE_INTEGER 2

// QQQ's f16 over the channel's scale, groups of 128.
#define MORAY_GROUP_SCALE_QQQ 3

// Nothing: codes of 4 bits lie about 8, those of 8 bits about 0.
#define MORAY_OFFSET_NONE 0

// f16, added after scaling.
#define MORAY_OFFSET_F16 1

// 0 to 15, subtracted from the codes; 4 bits only.
#define MORAY_OFFSET_ZERO_POINT 2

// `moray_linear`: format of the weight, type of y.
#define MORAY_OP_LINEAR 1

// `moray_mlp_forward`: format of the three matrices, or their type where they are not quantized.
#define MORAY_OP_SPARSE_MLP 2

// `moray_attend`: type of the cache; its format has 0 bits.
#define MORAY_OP_ATTENTION 3

// `moray_by_input`: format of the weight, or its type where it is not quantized.
#define MORAY_OP_BY_INPUT 4

// 4 bits and a scale for 32 values: 18 bytes.
#define MORAY_BLOCK_Q4_0 2

// 4 bits, a scale and a minimum: 20 bytes.
#define MORAY_BLOCK_Q4_1 3

// 5 bits and a scale: 22 bytes. Becomes 8 bits, with the same numbers.
#define MORAY_BLOCK_Q5_0 6

// 5 bits, a scale and a minimum: 24 bytes. Becomes 8 bits, with the same numbers.
#define MORAY_BLOCK_Q5_1 7

// 8 bits and a scale: 34 bytes.
#define MORAY_BLOCK_Q8_0 8

// GPTQ: qweight [K / P, N], scales [groups, N], qzeros [groups, ceil(N / P)] less one, each in its own bits.
#define MORAY_LAYOUT_GPTQ 1

// The same with zero points as they are ("gptq_v2").
#define MORAY_LAYOUT_GPTQ_V2 2

// The same with one subtracted from whole words, as GPTQModel and AutoRound write them.
#define MORAY_LAYOUT_GPTQ_BY_WORD 3

// AWQ: qweight [K, N / 8], scales [groups, N], qzeros [groups, N / 8].
#define MORAY_LAYOUT_AWQ 4

// compressed-tensors: weight_packed [N, K / P], weight_scale [N, groups], weight_zero_point [ceil(N / P), groups].
#define MORAY_LAYOUT_COMPRESSED_TENSORS 5

// One scale for each token.
#define MORAY_ACT_SCALES_TOKEN 0

// One for each token and each 128 of K.
#define MORAY_ACT_SCALES_FINE 1

// All neurons.
#define MORAY_SELECT_ALL 0

// One list for every token.
#define MORAY_SELECT_LIST 1

// One mask for each token.
#define MORAY_SELECT_MASKS 2

// Each token keeps what scores above a threshold.
#define MORAY_SELECT_THRESHOLD 3

// Each token keeps the highest scores.
#define MORAY_SELECT_TOP_K 4

// A list that every token shares, and a mask for each: token t computes what is in both.
#define MORAY_SELECT_UNION 5

// The inputs |x[i]|: an input that is not kept counts as zero.
#define MORAY_SCORE_INPUT 0

// The gate |act(gate[j] * x)|.
#define MORAY_SCORE_GATE 1

// The product |act(gate[j] * x) * (up[j] * x)|.
#define MORAY_SCORE_HIDDEN 2

// x / (1 + exp(-x)).
#define MORAY_ACTIVATION_SILU 0

// max(x, 0).
#define MORAY_ACTIVATION_RELU 1

// int8 with an f32 scale for each row of K and of V: a type that caches take besides the floats.
#define MORAY_INT8 3

// Every query head of every span.
#define MORAY_HEADS_ALL 0

// Lists of query heads: span b runs `list[b * width]` to `list[b * width + counts[b] - 1]`, strictly increasing.
#define MORAY_HEADS_LIST 1

// The same of KV heads, each for all query heads of its group.
#define MORAY_HEADS_GROUPS 2

// One bit for each query head: bit h % 32 of word h / 32 of a span's ceil(n_q_heads / 32).
#define MORAY_HEADS_MASK 3

// They are stored all the same.
#define MORAY_KV_WRITE_ALL 0

// Nothing: later tokens leave the position out of that head's softmax.
#define MORAY_KV_HOLE 1

// Zeros, which take part in the softmax.
#define MORAY_KV_ZERO 2

// x as it is.
#define MORAY_SOURCE_PLAIN 0

// x / sqrt(mean(x^2) + eps) * norm_weight.
#define MORAY_SOURCE_RMS_NORM 1

// act(gate) * up, of x [M, 2 * K] with each token's gate before its up.
#define MORAY_SOURCE_GATED 2

// IEEE half precision.
#define MORAY_ROWS_F16 1

// bfloat16.
#define MORAY_ROWS_BF16 2

// Codes of 4 bits with scales.
#define MORAY_ROWS_FOUR_BIT 3

// As `MORAY_KV_HOLE`, and whether the cache holds the positions stays as it is: to write single rows later. On devices alone.
#define MORAY_KV_KEEP 3

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Returns the `MORAY_ABI_VERSION` that the library was built with.
uint32_t moray_abi_version(void);

// Returns the version of the library, as "0.1.0".
const char *moray_version(void);

// Checks that the caller's header, whose `MORAY_ABI_VERSION` it passes, fits the library. Changes nothing.
//
// Fails with `MORAY_STATUS_VERSION` if it does not.
MorayStatus moray_init(uint32_t abi_version);

// Says what went wrong in the last call of this thread that failed: a sentence that names the argument, what was expected and what
// was found; empty before there is one. The text is valid until the next call of this thread that fails.
const char *moray_last_error(void);

// Makes a CPU device of so many threads (0: as many as there are cores for this process), the calling one among them.
//
// With 1 thread, every call runs on the thread that makes it and takes no lock, so that an engine's own threads can share the work
// of a call by its rows, see `moray_linear`.
//
// Fails with `MORAY_STATUS_SHAPE` for more threads than 4096 or than the system starts, `MORAY_STATUS_UNSUPPORTED` for an instruction
// set that the machine does not have.
MorayStatus moray_cpu_create(size_t threads,
                             MorayArch arch,
                             MorayCpu **out);

// Makes a CPU device of so many threads (0: as many as there are cores for this process) of an OpenMP runtime that the process has, in place of
// threads of the library's own: between two of the program's parallel regions on the same thread no others wait for the cores.
//
// `gomp_parallel` is the address of the runtime's function `GOMP_parallel`, which libgomp, libomp and libiomp5 have; the runtime stays loaded as long
// as the device. Fewer threads may come than are asked for, and results have the same bits. Fails as `moray_cpu_create`.
MorayStatus moray_cpu_create_openmp(size_t threads,
                                    const void *gomp_parallel,
                                    MorayArch arch,
                                    MorayCpu **out);

// Ends a CPU device and its threads; null is none.
void moray_cpu_destroy(MorayCpu *cpu);

// Says how many threads a CPU device has and which instruction set.
MorayStatus moray_cpu_describe(const MorayCpu *cpu, size_t *threads, MorayArch *arch);

// Says how many bytes each section of a packed weight w[N, K] has.
//
// Fails with `MORAY_STATUS_SHAPE` unless N is at least 1 and K a multiple of 32 (and of the group size) up to 65536, with
// `MORAY_STATUS_UNSUPPORTED` for a format of parts that do not go together.
MorayStatus moray_section_bytes(const MorayFormat *format,
                                size_t n,
                                size_t k,
                                MoraySectionBytes *out);

// Says whether an operation runs with a format, an element type and an architecture, by which arithmetic, or why not.
//
// Fails with `MORAY_STATUS_UNSUPPORTED` for numbers that are none of the constants.
MorayStatus moray_supports(const MorayQuery *query, MoraySupport *out);

// Quantizes w [N, K], row-major in `dtype`, by rounding to nearest.
//
// Fails with `MORAY_STATUS_LENGTH` unless `w` has N * K elements, `MORAY_STATUS_SHAPE` for sizes that the format does not take,
// `MORAY_STATUS_VALUE` for a weight that is not finite, `MORAY_STATUS_UNSUPPORTED` for formats that no rounding gives (zero
// points, groups of 8 bits).
MorayStatus moray_quantize(MorayBytes w,
                           MorayDtype dtype,
                           size_t n,
                           size_t k,
                           const MorayFormat *format,
                           MorayQuantized **out);

// Copies codes and scales that a quantizer or a checkpoint has already, see `MoraySections`.
//
// Fails as `moray_quantize`, with `MORAY_STATUS_VALUE` for codes or scales out of range, `MORAY_STATUS_UNSUPPORTED` for other
// arrays than the format has.
MorayStatus moray_quantized_create(const MoraySections *parts,
                                   size_t n,
                                   size_t k,
                                   const MorayFormat *format,
                                   MorayQuantized **out);

// Ends a plain weight; null is none.
void moray_quantized_destroy(MorayQuantized *weight);

// Says what a plain weight is: its sizes, its format and where its arrays are. They are there until the weight is destroyed.
MorayStatus moray_quantized_describe(const MorayQuantized *weight,
                                     size_t *n,
                                     size_t *k,
                                     MorayFormat *format,
                                     MoraySections *parts);

// Writes the numbers that a plain weight stands for: f32 [N, K].
MorayStatus moray_quantized_dequantize(const MorayQuantized *weight, MorayBytesMut w);

// Reads a matrix [N, K] of GGUF blocks, rows one after another, with the blocks' own scales: groups of 32.
//
// Fails with `MORAY_STATUS_LENGTH` unless `blocks` has N * K / 32 of them, `MORAY_STATUS_SHAPE` unless K is a multiple of 32,
// `MORAY_STATUS_VALUE` for a scale that is not finite, `MORAY_STATUS_UNSUPPORTED` for other blocks.
MorayStatus moray_import_blocks(MorayBlock block,
                                MorayBytes blocks,
                                size_t n,
                                size_t k,
                                MorayQuantized **out);

// Reads a checkpoint's arrays with their own codes, scales and zero points; groups longer than 128 are repeated.
//
// Where `group_of` puts inputs of a group apart, columns are in another order, see `moray_quantized_order`.
//
// Fails with `MORAY_STATUS_LENGTH` for an array of another size, `MORAY_STATUS_UNSUPPORTED` for groups of no multiple of 32 or of
// unlike sizes and for zero points of 8-bit codes, `MORAY_STATUS_VALUE` for a scale that is not finite in f16, `MORAY_STATUS_INDEX`
// for a group that is not there.
MorayStatus moray_import_exported(const MorayExported *arrays,
                                  MorayQuantized **out);

// Reads the arrays of a matrix [N, K] in a checkpoint of QQQ's with the codes and scales that they have: `codes` i32 [K / 16, 2 * N] (its `B`),
// `channel_scale` f32 [N] (`s_channel`), and `group_scale` f16 [K / 128, N] (`s_group`), left out where channels alone have scales. They become
// per-channel weights, or QQQ's group form.
//
// Fails with `MORAY_STATUS_LENGTH` for an array of another size, `MORAY_STATUS_UNSUPPORTED` unless N and K are multiples of 64,
// `MORAY_STATUS_SHAPE` unless K is one of 128 with groups, `MORAY_STATUS_VALUE` for a scale that is not finite.
MorayStatus moray_import_qqq(MorayBytes codes,
                             MorayBytes channel_scale,
                             MorayBytes group_scale,
                             size_t n,
                             size_t k,
                             MorayQuantized **out);

// Says in which order the columns of a plain weight are: u32 [K], column j goes with input order[j]; nothing where every column goes
// with its own. `moray_activations_quantize` takes it. It is there until the weight is destroyed.
MorayStatus moray_quantized_order(const MorayQuantized *weight,
                                  MorayBytes *order);

// Packs a plain weight into memory of the library's. The plain one is not needed any more then.
MorayStatus moray_weight_pack(const MorayQuantized *weight, MorayWeight **out);

// Packs a plain weight into the caller's memory: to be kept, written to a file, copied to a device.
//
// Fails with `MORAY_STATUS_LENGTH` for a section of another size than `moray_section_bytes` says.
MorayStatus moray_pack(const MorayQuantized *weight, const MoraySectionsMut *memory);

// Takes a packed weight where it is: the sections stay the caller's, unchanged until the handle is destroyed. They begin at
// multiples of 4 bytes; at multiples of 64 they are read fastest.
//
// Fails with `MORAY_STATUS_LENGTH` for a section of another size, `MORAY_STATUS_MISALIGNED`, and `MORAY_STATUS_VALUE` for
// whole-numbered scales above 16. What the codes and the other scales are is not looked at.
MorayStatus moray_weight_borrow(const MoraySections *sections,
                                size_t n,
                                size_t k,
                                const MorayFormat *format,
                                MorayWeight **out);

// Ends a packed weight; memory that it was lent stays as it is. Null is none.
void moray_weight_destroy(MorayWeight *weight);

// Says what a packed weight is: its sizes, its format and where its sections are.
MorayStatus moray_weight_describe(const MorayWeight *weight,
                                  size_t *n,
                                  size_t *k,
                                  MorayFormat *format,
                                  MoraySections *sections);

// Restores the plain codes and scales: the inverse of packing.
//
// Fails with `MORAY_STATUS_VALUE` where the caller's memory holds numbers that no weight has.
MorayStatus moray_weight_unpack(const MorayWeight *weight, MorayQuantized **out);

// Writes row `row` as numbers, f32 [K]: for an embedding that shares its matrix with the output layer.
//
// Fails with `MORAY_STATUS_INDEX` unless `row` is below N, `MORAY_STATUS_LENGTH` unless `values` has K elements.
MorayStatus moray_weight_row(const MorayWeight *weight, size_t row, MorayBytesMut values);

// Makes memory for up to `max_m` tokens of up to `max_k` features, which no later call makes more of.
//
// Fails with `MORAY_STATUS_OUT_OF_MEMORY`, and `MORAY_STATUS_SHAPE` unless both are at least 1.
MorayStatus moray_activations_create(size_t max_m, size_t max_k, MorayActScales scales, MorayActivations **out);

// Ends activations; null is none.
void moray_activations_destroy(MorayActivations *activations);

// Quantizes x [M, K], row-major in `dtype`, to codes and scales: scale = max |x| / 127 over what shares it, code = x / scale to
// nearest. A token with a value that is not finite gets a NaN scale, and so NaN results. Replaces what was held.
//
// `order`, u32 [K] or null: feature `order[j]` of each token goes in place j, for a weight whose columns are in that order.
//
// Fails with `MORAY_STATUS_SHAPE` unless M is 1 to `max_m` and K a multiple of 32 up to `max_k`, `MORAY_STATUS_LENGTH` unless `x`
// has M * K elements, `MORAY_STATUS_INDEX` for an order past K.
MorayStatus moray_activations_quantize(const MorayCpu *cpu,
                                       MorayActivations *activations,
                                       MorayBytes x,
                                       MorayDtype dtype,
                                       size_t m,
                                       size_t k,
                                       MorayBytes order);

// Takes codes int8 [M, K] and scales that an engine has already: f32 [M], or [M, ceil(K / 128)] for fine ones. Replaces what was held.
//
// Fails as `moray_activations_quantize`.
MorayStatus moray_activations_set(MorayActivations *activations,
                                  MorayBytes codes,
                                  MorayBytes scale,
                                  size_t m,
                                  size_t k);

// Says what activations hold.
MorayStatus moray_activations_describe(const MorayActivations *activations, MorayActivationsView *out);

// Computes y[m, n] = act_scale * (codes * w^T) + bias[n] + residual[m, n] for the output features n from `row_begin` to `row_end`;
// others of `y` are neither read nor written. Products and sums are exact integers inside a group, groups are added in f32 in
// a fixed order: the bits depend neither on threads nor on M, on ranges or on the instruction set.
//
// Several threads may share one multiplication by ranges that do not overlap, each with the same `y` and a CPU device of one thread.
// A thread's first call makes its scratch of 16 * K bytes.
//
// Fails with `MORAY_STATUS_LENGTH` for a buffer of another size, `MORAY_STATUS_SHAPE` if `x` and `weight` differ in K,
// `MORAY_STATUS_INDEX` for a range past N, `MORAY_STATUS_OVERLAP` if `y` overlaps what is read.
MorayStatus moray_linear(const MorayCpu *cpu,
                         const MorayLinear *call);

// Copies weights in `dtype`: gate and up [d_ff, d_model], down [d_model, d_ff], row-major; `biases` or null.
//
// Fails with `MORAY_STATUS_SHAPE` for a size of 0, `MORAY_STATUS_LENGTH` for a matrix of another size, `MORAY_STATUS_VALUE` for a
// weight that is not finite.
MorayStatus moray_mlp_create(const MorayMlpShape *shape,
                             MorayDtype dtype,
                             MorayBytes gate,
                             MorayBytes up,
                             MorayBytes down,
                             const MorayMlpBiases *biases,
                             MorayMlp **out);

// Takes 4-bit weights with the codes and scales they have: gate and up [d_ff, d_model], down [d_model, d_ff]. The plain weights are
// not needed any more then.
//
// Fails with `MORAY_STATUS_SHAPE` for matrices of other sizes, `MORAY_STATUS_UNSUPPORTED` for 8-bit codes, for scales other than
// of channels or f16 of groups and for columns in another order (`moray_quantized_order`).
MorayStatus moray_mlp_create_quantized(const MorayMlpShape *shape,
                                       const MorayQuantized *gate,
                                       const MorayQuantized *up,
                                       const MorayQuantized *down,
                                       const MorayMlpBiases *biases,
                                       MorayMlp **out);

// Ends an MLP; null is none.
void moray_mlp_destroy(MorayMlp *mlp);

// Makes what calls of up to `max_tokens` tokens work in, for this MLP and others of its shape and kind of weights.
//
// Fails with `MORAY_STATUS_OUT_OF_MEMORY`, and `MORAY_STATUS_SHAPE` for 0 tokens.
MorayStatus moray_mlp_workspace_create(const MorayMlp *mlp, size_t max_tokens, MorayMlpWorkspace **out);

// Ends a workspace; null is none.
void moray_mlp_workspace_destroy(MorayMlpWorkspace *workspace);

// Computes y = down(act(gate * x) * (up * x)) + residual over the neurons that the selection keeps of each token. Only the rows of
// neurons that a token keeps are read. With 4-bit weights, x and the product are int8 with one scale for each token. The bits depend
// neither on threads nor on the instruction set nor on how tokens are split into calls.
//
// Fails with `MORAY_STATUS_LENGTH` for a buffer or selection of another size, `MORAY_STATUS_SHAPE` for more tokens than the workspace
// was made for, `MORAY_STATUS_INDEX`, `MORAY_STATUS_NOT_INCREASING` and `MORAY_STATUS_VALUE` for a selection,
// `MORAY_STATUS_OVERLAP` if `y` overlaps what is read, `MORAY_STATUS_BUSY` if another thread is using the workspace.
MorayStatus moray_mlp_forward(const MorayCpu *cpu,
                              const MorayMlpForward *call);

// Says which neurons any token of a workspace's last call kept: u32, strictly increasing, until the next call with it. They are the
// rows of down that were read.
MorayStatus moray_mlp_kept(const MorayMlpWorkspace *workspace,
                           MorayBytes *kept);

// Computes act(gate * x) and its product with up * x for the neurons at the positions `begin` to `end` of a list: the first part of
// `moray_mlp_forward`, with its bits. Other columns of `gate` and `hidden` are neither read nor written, and only the rows of these
// neurons are read.
//
// Several threads may share one call by ranges that do not overlap, each with the same buffers and a CPU device of one thread.
// A selection by scores is: the gate of all neurons, `moray_mlp_select`, then `hidden` of the list that was chosen with the gate given.
//
// Fails with `MORAY_STATUS_LENGTH` for a buffer of another size, `MORAY_STATUS_SHAPE` for positions inside a block of 16 and activations
// of another K, `MORAY_STATUS_INDEX` for positions past L, `MORAY_STATUS_INDEX` and `MORAY_STATUS_NOT_INCREASING` for the list,
// `MORAY_STATUS_UNSUPPORTED` for inputs that are not the weights' kind and where nothing would be written, `MORAY_STATUS_OVERLAP` if what
// is written overlaps anything else, `MORAY_STATUS_BUSY` while another thread writes the activations.
MorayStatus moray_mlp_gate_up(const MorayCpu *cpu,
                              const MorayMlpGateUp *call);

// Writes which values each token keeps, those whose size times the channel's scale is above the threshold or the k highest, and lists
// what any token keeps: what `moray_mlp_forward` does between its parts. `count` is how many are listed; null with no list.
//
// Fails with `MORAY_STATUS_LENGTH` for a buffer of another size, `MORAY_STATUS_VALUE` and `MORAY_STATUS_SHAPE` for threshold, scales and k,
// `MORAY_STATUS_UNSUPPORTED` for other selections, `MORAY_STATUS_OVERLAP` if what is written overlaps anything else.
MorayStatus moray_mlp_select(const MorayCpu *cpu,
                             const MorayMlpSelect *call,
                             size_t *count);

// Computes y = down * hidden (+ its bias) + residual for the columns from `column_begin` to `column_end`: the last part of
// `moray_mlp_forward`, with its bits. Other columns of `y` are neither read nor written. Of a token whose inputs are not finite the parts give
// what the sums give, where `moray_mlp_forward` makes all of y NaN.
//
// Several threads may share one call by ranges that do not overlap, each with the same `y`, a workspace of its own and a CPU device of
// one thread. With 4-bit weights each quantizes all of `hidden` for itself.
//
// Fails with `MORAY_STATUS_LENGTH` for a buffer of another size, `MORAY_STATUS_SHAPE` for more tokens than the workspace was made for,
// `MORAY_STATUS_INDEX` for columns past d_model, `MORAY_STATUS_INDEX` and `MORAY_STATUS_NOT_INCREASING` for the list,
// `MORAY_STATUS_OVERLAP` if `y` overlaps what is read, `MORAY_STATUS_BUSY` if another thread is using the workspace.
MorayStatus moray_mlp_down(const MorayCpu *cpu,
                           const MorayMlpDown *call);

// Copies a weight w[N, K], row-major in `dtype`.
//
// Fails with `MORAY_STATUS_SHAPE` for a size of 0, `MORAY_STATUS_LENGTH` for memory of another size, `MORAY_STATUS_VALUE` for a weight
// that is not finite.
MorayStatus moray_input_weight_create(MorayBytes w,
                                      MorayDtype dtype,
                                      size_t n,
                                      size_t k,
                                      MorayInputWeight **out);

// Takes a 4-bit weight with the codes and scales it has. The plain weight is not needed any more then.
//
// Fails with `MORAY_STATUS_UNSUPPORTED` for 8-bit codes, for scales other than of channels or f16 of groups and for columns in another
// order (`moray_quantized_order`).
MorayStatus moray_input_weight_create_quantized(const MorayQuantized *weight,
                                                MorayInputWeight **out);

// Ends a weight; null is none.
void moray_input_weight_destroy(MorayInputWeight *weight);

// Makes what products of up to `max_tokens` tokens work in, for this weight and others of no more inputs.
//
// Fails with `MORAY_STATUS_OUT_OF_MEMORY`, and `MORAY_STATUS_SHAPE` for 0 tokens.
MorayStatus moray_input_workspace_create(const MorayInputWeight *weight, size_t max_tokens, MorayInputWorkspace **out);

// Ends a workspace; null is none.
void moray_input_workspace_destroy(MorayInputWorkspace *workspace);

// Computes y[m, n] = sum over k with |x[m, k]| > threshold of x[m, k] * w[n, k], + bias + residual, for the output features n from
// `row_begin` to `row_end`; others of `y` are neither read nor written. Up to 8 tokens read the weights of the
// inputs that any of them keeps; more read all. With 4-bit weights, x is int8 with one scale for each token over all of its inputs, and a threshold of
// 0 gives the bits of `moray_linear`. The bits depend neither on threads nor on the instruction set nor on how tokens are split into calls.
//
// Several threads may share one product by ranges that do not overlap (multiples of 64 waste nothing), each with the same `y`, a
// workspace of its own and a CPU device of one thread. Each lists what is kept for itself.
//
// Fails with `MORAY_STATUS_LENGTH` for a buffer of another size, `MORAY_STATUS_VALUE` for the threshold, `MORAY_STATUS_INDEX` for a range
// past N, `MORAY_STATUS_OVERLAP` if `y` overlaps what is read, `MORAY_STATUS_BUSY` if another thread is using the workspace.
MorayStatus moray_by_input(const MorayCpu *cpu,
                           const MorayByInput *call);

// Says which inputs a workspace's last call read: u32, strictly increasing, until the next call with it.
MorayStatus moray_by_input_kept(const MorayInputWorkspace *workspace, MorayBytes *kept);

// Makes a cache of element type `dtype` (`MORAY_INT8` too), empty.
//
// Fails with `MORAY_STATUS_SHAPE` for a size that is not supported or memory that cannot be had.
MorayStatus moray_kv_cache_create(const MorayKvShape *shape, MorayDtype dtype, MorayKvCache **out);

// Ends a cache; null is none.
void moray_kv_cache_destroy(MorayKvCache *cache);

// Forgets positions `len` and later of a sequence, in every layer; 0 empties it.
//
// Fails with `MORAY_STATUS_INDEX` for a slot out of range, `MORAY_STATUS_BUSY` if another thread is using the cache.
MorayStatus moray_kv_cache_truncate(MorayKvCache *cache, size_t slot, size_t len);

// Reads one key and value as the cache holds them, f32 [head_dim] each, and says whether the row is held (1) or a hole (0), which reads
// as zeros.
//
// Fails with `MORAY_STATUS_INDEX` for a layer, slot, head or position out of range, `MORAY_STATUS_LENGTH` for a buffer of another
// size.
MorayStatus moray_kv_cache_read(const MorayKvCache *cache,
                                const MorayKvRow *row,
                                MorayBytesMut k,
                                MorayBytesMut v,
                                uint32_t *held);

// Makes what attention of a shape works in, with the threads of `cpu`.
//
// Fails with `MORAY_STATUS_SHAPE` for a head layout that is not supported or memory that cannot be had.
MorayStatus moray_attention_create(const MorayCpu *cpu, const MorayAttentionShape *shape, MorayAttention **out);

// Ends what attention works in; null is none.
void moray_attention_destroy(MorayAttention *attention);

// Writes the keys and values of a call's tokens, f32 [M, n_kv_heads, head_dim] each, into the cache or the pages. Keys are already turned by the
// rotary embedding. Positions written before are replaced.
//
// Fails with `MORAY_STATUS_INDEX` for a layer, slot or position out of range, `MORAY_STATUS_LENGTH` for a buffer of another
// size, `MORAY_STATUS_SHAPE` if call and cache disagree, `MORAY_STATUS_BUSY` if another thread is using the cache; with pages
// `MORAY_STATUS_MISALIGNED` and `MORAY_STATUS_OVERLAP` for their memory, `MORAY_STATUS_UNSUPPORTED` for `MORAY_KV_HOLE` without `present`.
MorayStatus moray_write_kv(const MorayCpu *cpu,
                           const MorayAttend *call,
                           MorayKvPolicy policy,
                           MorayBytes k,
                           MorayBytes v);

// Computes out[t, h] = sum over j of softmax_j(q[t, h] * k[j] / sqrt(head_dim)) * v[j] over the positions j up to t's own that the
// cache holds, for the heads that run; others give zeros. q and out are f32 [M, n_q_heads, head_dim], q turned by the rotary
// embedding; the call's own tokens have been written. `cpu` is the one that `attention` was made with, or another of no more threads.
// Of `out`, what is not of the call's ranges of spans and KV heads is neither read nor written.
//
// Several threads may share one call by ranges that do not overlap, each with the same `out` and `cache`, an `attention` of its own and a
// CPU device of one thread, once one of them has written the call's tokens. A range is not divided along the context.
//
// Fails as `moray_write_kv`, with `MORAY_STATUS_NOT_INCREASING` for a list with duplicates, `MORAY_STATUS_OVERLAP` if `out` overlaps
// `q`, `MORAY_STATUS_INDEX` for ranges past the last span or KV head.
MorayStatus moray_attend(const MorayCpu *cpu,
                         const MorayAttend *call,
                         MorayBytes q,
                         MorayBytesMut out);

// Takes a context, which stays the caller's: it is there for as long as the handle, and not destroyed with it.
//
// Fails with `MORAY_STATUS_KERNELS_NOT_BUILT` in a library without CUDA, `MORAY_STATUS_DRIVER_ABSENT`,
// `MORAY_STATUS_DRIVER_TOO_OLD`, `MORAY_STATUS_UNSUPPORTED_ARCHITECTURE` for a device below compute capability 8.0, and
// `MORAY_STATUS_DRIVER` where the driver refuses the context.
MorayStatus moray_cuda_create(CUctx_st *context, MorayCuda **out);

// Ends a device, and unloads its kernels if no other handle has the context; the context is still there. Null is none.
void moray_cuda_destroy(MorayCuda *cuda);

// Says which architecture a device has, as `moray_supports` takes it, and how many multiprocessors.
MorayStatus moray_cuda_describe(const MorayCuda *cuda, MorayArch *arch, uint32_t *multiprocessors);

// Says whether calls ask the driver if kernels of the context reach each buffer's first and last byte, and refuse those that they do not with
// `MORAY_STATUS_DEVICE`: 1, as it is at first, or 0, which spares the questions where addresses are known to be good. A kernel that is given others leaves
// a context in which no call succeeds.
MorayStatus moray_cuda_check_memory(const MorayCuda *cuda,
                                    uint32_t checked);

// Loads every kernel of the library, which a capture could not. The `prepare` of a call loads those of the call alone.
//
// Fails with `MORAY_STATUS_UNSUPPORTED_ARCHITECTURE` if kernels were not built for the device, `MORAY_STATUS_DRIVER` if the driver
// does not load them.
MorayStatus moray_cuda_load_kernels(const MorayCuda *cuda);

// Loads the kernels of a quantization, whose addresses are not looked at, and says how many bytes `out.memory` needs; as many serve
// fewer tokens.
//
// Fails as `moray_cuda_quantize`, and as `moray_cuda_load_kernels`.
MorayStatus moray_cuda_quantize_prepare(const MorayCuda *cuda,
                                        const MorayCudaQuantize *call,
                                        size_t *bytes);

// Quantizes tokens as `moray_activations_quantize` does, with the same bits.
//
// Fails with `MORAY_STATUS_SHAPE` unless M is at least 1 and K a multiple of 32, `MORAY_STATUS_LENGTH`, `MORAY_STATUS_NULL`,
// `MORAY_STATUS_MISALIGNED` and `MORAY_STATUS_OVERLAP` for memory, `MORAY_STATUS_LAUNCH` if the driver does not start the kernel.
MorayStatus moray_cuda_quantize(const MorayCuda *cuda,
                                CUstream_st *stream,
                                const MorayCudaQuantize *call);

// Loads the kernels of a multiplication, whose addresses are not looked at, and says how many bytes `workspace` needs; 0 where it
// may be left out. Another M may need another kernel and more.
//
// Fails as `moray_cuda_linear`, and as `moray_cuda_load_kernels`.
MorayStatus moray_cuda_linear_prepare(const MorayCuda *cuda,
                                      const MorayCudaLinear *call,
                                      size_t *bytes);

// Multiplies as `moray_linear` does, with the same bits.
//
// Fails with `MORAY_STATUS_SHAPE` for sizes that go together with nothing (M above 1048560, x and weight that differ in K),
// `MORAY_STATUS_UNSUPPORTED` for a format of parts that do not go together or another layout, `MORAY_STATUS_LENGTH`,
// `MORAY_STATUS_NULL`, `MORAY_STATUS_MISALIGNED` and `MORAY_STATUS_OVERLAP` for memory, `MORAY_STATUS_LAUNCH` if the driver does not start
// the kernel.
MorayStatus moray_cuda_linear(const MorayCuda *cuda,
                              CUstream_st *stream,
                              const MorayCudaLinear *call);

// Loads the kernels of a product, whose addresses are not looked at, and says how many bytes `workspace` needs, which serve every smaller M and
// depend on N not at all; 0 where it may be left out.
//
// Fails as `moray_cuda_product`, and as `moray_cuda_load_kernels`.
MorayStatus moray_cuda_product_prepare(const MorayCuda *cuda,
                                       const MorayCudaProduct *call,
                                       size_t *bytes);

// Quantizes and multiplies as `moray_cuda_quantize` and `moray_cuda_linear` do, with the same bits.
//
// Fails as these two; with `MORAY_STATUS_SHAPE` for gated outputs of more tokens or another N, `MORAY_STATUS_UNSUPPORTED` for
// `MORAY_SOURCE_GATED` and a residual of gated outputs.
MorayStatus moray_cuda_product(const MorayCuda *cuda,
                               CUstream_st *stream,
                               const MorayCudaProduct *call);

// Loads the kernel of a normalisation, whose addresses are not looked at.
//
// Fails as `moray_cuda_rms_norm`, and as `moray_cuda_load_kernels`.
MorayStatus moray_cuda_rms_norm_prepare(const MorayCuda *cuda, const MorayCudaRmsNorm *call);

// Computes y[m, h] = x[m, h] / sqrt(mean(x[m, h]^2) + eps) * weight.
//
// Fails with `MORAY_STATUS_SHAPE` for sizes and strides, `MORAY_STATUS_LENGTH`, `MORAY_STATUS_NULL`, `MORAY_STATUS_MISALIGNED`
// and `MORAY_STATUS_OVERLAP` for memory, `MORAY_STATUS_LAUNCH` if the driver does not start the kernel.
MorayStatus moray_cuda_rms_norm(const MorayCuda *cuda,
                                CUstream_st *stream,
                                const MorayCudaRmsNorm *call);

// Loads the kernel of a selection, whose addresses are not looked at.
//
// Fails as `moray_cuda_select`, and as `moray_cuda_load_kernels`.
MorayStatus moray_cuda_select_prepare(const MorayCuda *cuda, const MorayCudaSelect *call);

// Writes which values each token keeps: those above the threshold, or exactly k. The masks are those of `MORAY_SELECT_MASKS`.
//
// Fails with `MORAY_STATUS_SHAPE` for sizes and k, `MORAY_STATUS_VALUE` for the threshold, `MORAY_STATUS_UNSUPPORTED` for other kinds,
// `MORAY_STATUS_LENGTH`, `MORAY_STATUS_NULL`, `MORAY_STATUS_MISALIGNED` and `MORAY_STATUS_OVERLAP` for memory, `MORAY_STATUS_LAUNCH` if
// the driver does not start the kernel.
MorayStatus moray_cuda_select(const MorayCuda *cuda,
                              CUstream_st *stream,
                              const MorayCudaSelect *call);

// Loads the kernel of a union, whose addresses are not looked at.
//
// Fails as `moray_cuda_union`, and as `moray_cuda_load_kernels`.
MorayStatus moray_cuda_union_prepare(const MorayCuda *cuda, const MorayCudaUnion *call);

// Lists what any of the masks keeps, for `MORAY_SELECT_LIST` and `MORAY_SELECT_UNION`.
//
// Fails as `moray_cuda_select`.
MorayStatus moray_cuda_union(const MorayCuda *cuda, CUstream_st *stream, const MorayCudaUnion *call);

// Says how an MLP is stored for devices: everything of `MorayCudaMlpWeights` but addresses, which are null.
//
// Fails with `MORAY_STATUS_UNSUPPORTED` for f32 weights, `MORAY_STATUS_SHAPE` unless d_model is a multiple of 8,
// `MORAY_STATUS_KERNELS_NOT_BUILT` in a library without the operation's CUDA kernels.
MorayStatus moray_cuda_mlp_sizes(const MorayMlp *mlp, MorayCudaMlpWeights *out);

// Writes an MLP as devices read it into memory of the process, whose sizes `moray_cuda_mlp_sizes` says: to be copied to a device.
//
// Fails as `moray_cuda_mlp_sizes`, with `MORAY_STATUS_LENGTH` for memory of another size.
MorayStatus moray_cuda_mlp_pack(const MorayMlp *mlp,
                                const MorayCudaMlpWeights *memory);

// Loads the kernels of a call, whose addresses are not looked at, and says how many bytes `workspace` needs.
//
// Fails as `moray_cuda_mlp`, and as `moray_cuda_load_kernels`.
MorayStatus moray_cuda_mlp_prepare(const MorayCuda *cuda, const MorayCudaMlp *call, size_t *bytes);

// Computes y = down(act(gate * x) * (up * x)) + residual over the neurons that the selection keeps of each token. Lists, counts and masks are
// read when the kernels run, so that a graph replays with others; kernels stay inside the weights whatever they hold. Selections
// have the CPU's bits for the same values; sums have an order of their own, see docs/sparse-mlp.md.
//
// Fails with `MORAY_STATUS_SHAPE` for sizes, `MORAY_STATUS_VALUE` for a threshold, `MORAY_STATUS_UNSUPPORTED` for rows and scales of
// other kinds, `MORAY_STATUS_LENGTH`, `MORAY_STATUS_NULL`, `MORAY_STATUS_MISALIGNED` and `MORAY_STATUS_OVERLAP` for memory,
// `MORAY_STATUS_LAUNCH` if the driver does not start a kernel.
MorayStatus moray_cuda_mlp(const MorayCuda *cuda,
                           CUstream_st *stream,
                           const MorayCudaMlp *call);

// Loads the kernels of a call, whose addresses are not looked at, and says how many bytes `workspace` needs.
//
// Fails as `moray_cuda_mlp_gate_up`, and as `moray_cuda_load_kernels`.
MorayStatus moray_cuda_mlp_gate_up_prepare(const MorayCuda *cuda, const MorayCudaMlpGateUp *call, size_t *bytes);

// Computes act(gate * x) and its product with up * x for the neurons of a list, or all: the first part of `moray_cuda_mlp`, with its bits. A
// selection by scores is: the gate of all neurons, `moray_cuda_select`, `moray_cuda_union`, then `hidden` of that list and those masks with
// the gate given.
//
// Fails as `moray_cuda_mlp`.
MorayStatus moray_cuda_mlp_gate_up(const MorayCuda *cuda,
                                   CUstream_st *stream,
                                   const MorayCudaMlpGateUp *call);

// Loads the kernels of a call, whose addresses are not looked at, and says how many bytes `workspace` needs.
//
// Fails as `moray_cuda_mlp_down`, and as `moray_cuda_load_kernels`.
MorayStatus moray_cuda_mlp_down_prepare(const MorayCuda *cuda, const MorayCudaMlpDown *call, size_t *bytes);

// Computes y = down(hidden) + residual over the neurons of a list, or all: the last part of `moray_cuda_mlp`, with its bits. Each call follows
// one of `moray_cuda_mlp_gate_up` with `hidden`, which is followed by no other.
//
// Fails as `moray_cuda_mlp`.
MorayStatus moray_cuda_mlp_down(const MorayCuda *cuda,
                                CUstream_st *stream,
                                const MorayCudaMlpDown *call);

// Loads the kernel of a product, whose addresses are not looked at.
//
// Fails as `moray_cuda_by_input`, and as `moray_cuda_load_kernels`.
MorayStatus moray_cuda_by_input_prepare(const MorayCuda *cuda, const MorayCudaByInput *call);

// Computes y[m, n] = sum over k with |x[m, k]| > threshold of x[m, k] * w[k, n], + bias + residual, in f32. The bits depend neither on
// M nor on the device.
//
// Fails with `MORAY_STATUS_SHAPE` for sizes and `row_bytes`, `MORAY_STATUS_VALUE` for the threshold, `MORAY_STATUS_LENGTH`,
// `MORAY_STATUS_NULL`, `MORAY_STATUS_MISALIGNED` and `MORAY_STATUS_OVERLAP` for memory, `MORAY_STATUS_LAUNCH` if the driver does not
// start the kernel.
MorayStatus moray_cuda_by_input(const MorayCuda *cuda,
                                CUstream_st *stream,
                                const MorayCudaByInput *call);

// Says how a 4-bit weight by input is stored for devices: everything of `MorayCudaInputRows` but addresses, which are null.
//
// Fails with `MORAY_STATUS_UNSUPPORTED` for weights in floating point, `MORAY_STATUS_KERNELS_NOT_BUILT` in a library without the
// operation's CUDA kernels.
MorayStatus moray_cuda_input_rows_sizes(const MorayInputWeight *weight,
                                        MorayCudaInputRows *out);

// Writes a 4-bit weight by input as devices read it into memory of the process, whose sizes `moray_cuda_input_rows_sizes` says: to be
// copied to a device.
//
// Fails as `moray_cuda_input_rows_sizes`, with `MORAY_STATUS_LENGTH` for memory of another size.
MorayStatus moray_cuda_input_rows_pack(const MorayInputWeight *weight,
                                       const MorayCudaInputRows *memory);

// Loads the kernels of a product, whose addresses are not looked at, and says how many bytes `workspace` needs; 0 where it may be left
// out. Another M may need another kernel and more.
//
// Fails as `moray_cuda_by_input_four_bit`, and as `moray_cuda_load_kernels`.
MorayStatus moray_cuda_by_input_four_bit_prepare(const MorayCuda *cuda,
                                                 const MorayCudaByInputFourBit *call,
                                                 size_t *bytes);

// Computes what `moray_by_input` does with a weight of 4 bits, with the same bits. Up to 8 tokens read the weights of the inputs that any
// of them keeps; more go by eights.
//
// Fails with `MORAY_STATUS_SHAPE` for sizes, `MORAY_STATUS_VALUE` for the threshold, `MORAY_STATUS_UNSUPPORTED` for an offset that is
// none of the constants, `MORAY_STATUS_LENGTH`, `MORAY_STATUS_NULL`, `MORAY_STATUS_MISALIGNED` and `MORAY_STATUS_OVERLAP` for memory,
// `MORAY_STATUS_LAUNCH` if the driver does not start a kernel.
MorayStatus moray_cuda_by_input_four_bit(const MorayCuda *cuda,
                                         CUstream_st *stream,
                                         const MorayCudaByInputFourBit *call);

// Loads the kernel of a call, whose addresses are not looked at.
//
// Fails as `moray_cuda_write_kv`, and as `moray_cuda_load_kernels`.
MorayStatus moray_cuda_write_kv_prepare(const MorayCuda *cuda, const MorayCudaWriteKv *call);

// Turns q and k by the rotary embedding and writes the keys and values of a call's tokens into the cache.
//
// Fails with `MORAY_STATUS_SHAPE` for sizes and strides, `MORAY_STATUS_UNSUPPORTED` for constants and holes without `kv.present`,
// `MORAY_STATUS_LENGTH`, `MORAY_STATUS_NULL`, `MORAY_STATUS_MISALIGNED` and `MORAY_STATUS_OVERLAP` for memory, `MORAY_STATUS_LAUNCH` if the
// driver does not start the kernel.
MorayStatus moray_cuda_write_kv(const MorayCuda *cuda,
                                CUstream_st *stream,
                                const MorayCudaWriteKv *call);

// Loads the kernels of a call, whose addresses are not looked at, and says how many bytes `workspace` needs.
//
// Fails as `moray_cuda_attend`, and as `moray_cuda_load_kernels`.
MorayStatus moray_cuda_attend_prepare(const MorayCuda *cuda, const MorayCudaAttend *call, size_t *bytes);

// Computes out[t, h] = sum over j of softmax_j(q[t, h] * k[j] / sqrt(head_dim)) * v[j] over the positions j up to t's own that the
// cache holds, for the heads that run; others give zeros.
//
// Fails as `moray_cuda_write_kv`.
MorayStatus moray_cuda_attend(const MorayCuda *cuda,
                              CUstream_st *stream,
                              const MorayCudaAttend *call);

// Loads the kernels of a call, whose addresses are not looked at, and says how many bytes `workspace` needs.
//
// Fails as `moray_cuda_write_attend`, and as `moray_cuda_load_kernels`.
MorayStatus moray_cuda_write_attend_prepare(const MorayCuda *cuda, const MorayCudaWriteAttend *call, size_t *bytes);

// Turns q and k, writes k and v and attends, as `moray_cuda_write_kv` and `moray_cuda_attend` do one after the other, with the same bits.
//
// Fails as these two.
MorayStatus moray_cuda_write_attend(const MorayCuda *cuda,
                                    CUstream_st *stream,
                                    const MorayCudaWriteAttend *call);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* MORAY_H */
