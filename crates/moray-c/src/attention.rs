//! Keys, values, and attention over the heads that run.

use crate::activations::unless_busy;
use crate::arguments::{MorayBytes, MorayBytesMut, borrow, create, destroy, give, sized};
use crate::cpu::MorayCpu;
use crate::dtype::{MORAY_BF16, MORAY_F16, MORAY_F32, MorayDtype};
use crate::kv_pages::MorayKvPages;
use crate::status::{Fault, MorayStatus, Outcome, guard};
use moray::Cpu;
use moray::attention::{
    AttentionShape, Call, Heads, KvCache, KvDtype, KvPolicy, KvRow, KvShape, Limits, Span, Workspace,
    attend_paged_range, attend_range, write_kv, write_kv_paged,
};
use std::sync::{Mutex, RwLock};

/// int8 with an f32 scale for each row of K and of V: a type that caches take besides the floats.
pub const MORAY_INT8: MorayDtype = 3;

/// Keys and values of layers and sequences, in memory of the library's. One thread writes it at a time; any number may attend when none does.
#[derive(Debug)]
pub struct MorayKvCache(RwLock<KvCache>);

/// What attention works in, made once. One thread uses it at a time.
#[derive(Debug)]
pub struct MorayAttention {
    shape: AttentionShape,
    workspace: Mutex<Workspace>,
}

/// The dimensions of a cache.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayKvShape {
    /// Layers.
    pub n_layers: usize,
    /// Sequences held at once.
    pub n_slots: usize,
    /// Key and value heads of a layer.
    pub n_kv_heads: usize,
    /// Elements of a head: a multiple of 8, at most 512.
    pub head_dim: usize,
    /// Positions of a sequence.
    pub capacity: usize,
}

/// Makes a cache of element type `dtype` (`MORAY_INT8` too), empty.
///
/// Fails with `MORAY_STATUS_SHAPE` for a size that is not supported or memory that cannot be had.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_kv_cache_create(
    shape: *const MorayKvShape,
    dtype: MorayDtype,
    out: *mut *mut MorayKvCache,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let MorayKvShape { n_layers, n_slots, n_kv_heads, head_dim, capacity } = *unsafe { borrow("shape", shape)? };
        let dtype = kv_dtype("dtype", dtype)?;
        let shape = KvShape { n_layers, n_slots, n_kv_heads, head_dim, capacity };
        // SAFETY: the caller's.
        unsafe { create(out, || Ok(MorayKvCache(RwLock::new(KvCache::new(shape, dtype)?)))) }
    })
}

pub(crate) fn kv_dtype(what: &'static str, dtype: MorayDtype) -> Outcome<KvDtype> {
    match dtype {
        MORAY_F32 => Ok(KvDtype::F32),
        MORAY_F16 => Ok(KvDtype::F16),
        MORAY_BF16 => Ok(KvDtype::Bf16),
        MORAY_INT8 => Ok(KvDtype::Int8),
        other => Err(Fault::unsupported(what, "MORAY_F32, MORAY_F16, MORAY_BF16 or MORAY_INT8", other)),
    }
}

/// Ends a cache; null is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_kv_cache_destroy(cache: *mut MorayKvCache) {
    // SAFETY: the caller's.
    unsafe { destroy(cache) }
}

/// Forgets positions `len` and later of a sequence, in every layer; 0 empties it.
///
/// Fails with `MORAY_STATUS_INDEX` for a slot out of range, `MORAY_STATUS_BUSY` if another thread is using the cache.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_kv_cache_truncate(cache: *mut MorayKvCache, slot: usize, len: usize) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let cache = unsafe { borrow("cache", cache.cast_const())? };
        Ok(unless_busy("cache", cache.0.try_write())?.truncate(slot, len)?)
    })
}

/// One row of K and one of V in a cache.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayKvRow {
    /// The layer.
    pub layer: usize,
    /// The sequence.
    pub slot: usize,
    /// The KV head.
    pub kv_head: usize,
    /// The position.
    pub position: usize,
}

/// Reads one key and value as the cache holds them, f32 [head_dim] each, and says whether the row is held (1) or a hole (0), which reads
/// as zeros.
///
/// Fails with `MORAY_STATUS_INDEX` for a layer, slot, head or position out of range, `MORAY_STATUS_LENGTH` for a buffer of another
/// size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_kv_cache_read(
    cache: *const MorayKvCache,
    row: *const MorayKvRow,
    k: MorayBytesMut,
    v: MorayBytesMut,
    held: *mut u32,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let cache = unsafe { borrow("cache", cache)? };
        // SAFETY: the caller's.
        let MorayKvRow { layer, slot, kv_head, position } = *unsafe { borrow("row", row)? };
        k.check_apart("k", &[("v", v.data.addr()..v.data.addr().saturating_add(v.bytes))])?;
        // SAFETY: the caller's.
        let (k, v) = unsafe { (k.write("k")?, v.write("v")?) };
        let cache = unless_busy("cache", cache.0.try_read())?;
        let is_held = cache.read_row(layer, KvRow { slot, kv_head, position }, k, v)?;
        // SAFETY: the caller's.
        unsafe { give("held", held, u32::from(is_held)) }
    })
}

/// The head layout of a layer, and how large its calls are.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayAttentionShape {
    /// Query heads: a multiple of `n_kv_heads`.
    pub n_q_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Elements of a head: a multiple of 8, at most 512.
    pub head_dim: usize,
    /// Most tokens of a call.
    pub max_rows: usize,
    /// Most spans of a call.
    pub max_spans: usize,
    /// Longest context; the cache's capacity.
    pub capacity: usize,
}

/// Makes what attention of a shape works in, with the threads of `cpu`.
///
/// Fails with `MORAY_STATUS_SHAPE` for a head layout that is not supported or memory that cannot be had.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_attention_create(
    cpu: *const MorayCpu,
    shape: *const MorayAttentionShape,
    out: *mut *mut MorayAttention,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let (cpu, wanted) = unsafe { (&borrow("cpu", cpu)?.0, borrow("shape", shape)?) };
        // SAFETY: the caller's.
        unsafe { create(out, || MorayAttention::new(cpu, wanted)) }
    })
}

impl MorayAttention {
    pub(crate) fn new(cpu: &Cpu, wanted: &MorayAttentionShape) -> Outcome<Self> {
        let MorayAttentionShape { n_q_heads, n_kv_heads, head_dim, max_rows, max_spans, capacity } = *wanted;
        let shape = AttentionShape::new(n_q_heads, n_kv_heads, head_dim)?;
        let workspace = Workspace::new(cpu, shape, Limits { max_rows, max_spans, capacity })?;
        Ok(MorayAttention { shape, workspace: Mutex::new(workspace) })
    }
}

/// Ends what attention works in; null is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_attention_destroy(attention: *mut MorayAttention) {
    // SAFETY: the caller's.
    unsafe { destroy(attention) }
}

/// A run of consecutive tokens of one sequence. The tokens of a call's spans stand one after another in the M rows of q, k, v and out.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MoraySpan {
    /// The sequence's place in the cache.
    pub slot: usize,
    /// Position of the first token.
    pub start: usize,
    /// Number of tokens; may be 0.
    pub len: usize,
}

/// Which heads run: one of the `MORAY_HEADS_..` constants.
pub type MorayHeads = u32;

/// Every query head of every span.
pub const MORAY_HEADS_ALL: MorayHeads = 0;
/// Lists of query heads: span b runs `list[b * width]` to `list[b * width + counts[b] - 1]`, strictly increasing.
pub const MORAY_HEADS_LIST: MorayHeads = 1;
/// The same of KV heads, each for all query heads of its group.
pub const MORAY_HEADS_GROUPS: MorayHeads = 2;
/// One bit for each query head: bit h % 32 of word h / 32 of a span's ceil(n_q_heads / 32).
pub const MORAY_HEADS_MASK: MorayHeads = 3;

/// What is stored of K and V of a head that no query head reads: one of the `MORAY_KV_..` constants.
pub type MorayKvPolicy = u32;

/// They are stored all the same.
pub const MORAY_KV_WRITE_ALL: MorayKvPolicy = 0;
/// Nothing: later tokens leave the position out of that head's softmax.
pub const MORAY_KV_HOLE: MorayKvPolicy = 1;
/// Zeros, which take part in the softmax.
pub const MORAY_KV_ZERO: MorayKvPolicy = 2;

/// A call over the tokens of one layer.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayAttend {
    /// `sizeof(MorayAttend)`.
    pub struct_size: u32,
    /// Which heads run.
    pub heads: MorayHeads,
    /// The head layout, and what attention works in.
    pub attention: *mut MorayAttention,
    /// Keys and values; null where `pages` has them.
    pub cache: *mut MorayKvCache,
    /// The layer, an index into the cache; not looked at with `pages`.
    pub layer: usize,
    /// The spans, each slot at most once.
    pub spans: *const MoraySpan,
    /// How many.
    pub n_spans: usize,
    /// u32: the lists [n_spans, width] or masks; left out for all heads.
    pub list: MorayBytes,
    /// u32 [n_spans]: the lengths of lists; left out for all heads and masks.
    pub counts: MorayBytes,
    /// `moray_attend`: the first span that is computed.
    pub span_begin: usize,
    /// `moray_attend`: one past the last; 0 stands for `n_spans`.
    pub span_end: usize,
    /// `moray_attend`: the first KV head whose query heads are computed.
    pub kv_head_begin: usize,
    /// `moray_attend`: one past the last; 0 stands for `n_kv_heads`.
    pub kv_head_end: usize,
    /// The layer's keys and values in memory of the caller's, in place of `cache`; or null. One thread writes them at a time, and none meanwhile
    /// reads them: that is the caller's word.
    pub pages: *const MorayKvPages,
}

/// Where a call's keys and values are.
enum Kv<'a> {
    Cache(&'a MorayKvCache),
    Pages(&'a MorayKvPages),
}

impl MorayAttend {
    /// Runs `f` on the call in Rust's form.
    ///
    /// # Safety
    /// As [`moray_attend`].
    unsafe fn with<R>(&self, f: impl FnOnce(&Call<'_>, &MorayAttention, Kv<'_>) -> Outcome<R>) -> Outcome<R> {
        // SAFETY: the caller's.
        let attention = unsafe { borrow("attention", self.attention.cast_const())? };
        let kv = match (self.cache.is_null(), self.pages.is_null()) {
            (false, false) => {
                let expected = "null beside a cache";
                let got = "an address".into();
                return Err(moray::Error::Unsupported { what: "pages", expected, got }.into());
            }
            // SAFETY: the caller's.
            (true, false) => Kv::Pages(unsafe { borrow("pages", self.pages)? }),
            // SAFETY: the caller's.
            (_, true) => Kv::Cache(unsafe { borrow("cache", self.cache.cast_const())? }),
        };
        let bytes = self.n_spans.saturating_mul(size_of::<MoraySpan>());
        // SAFETY: the caller's.
        let numbers = unsafe { MorayBytes { data: self.spans.cast(), bytes }.read::<usize>("spans")? };
        let spans = numbers.as_chunks::<3>().0.iter();
        let spans: Vec<Span> = spans.map(|&[slot, start, len]| Span { slot, start, len }).collect();
        // SAFETY: the caller's.
        let (list, counts) = unsafe { (self.list.read("list")?, self.counts.read("counts")?) };
        let heads = match self.heads {
            MORAY_HEADS_ALL => Heads::All,
            MORAY_HEADS_LIST => Heads::List { list, counts },
            MORAY_HEADS_GROUPS => Heads::Groups { list, counts },
            MORAY_HEADS_MASK => Heads::Mask { words: list },
            other => return Err(Fault::unsupported("heads", "a MORAY_HEADS_ constant", other)),
        };
        f(&Call { shape: attention.shape, layer: self.layer, spans: &spans, heads }, attention, kv)
    }
}

/// Writes the keys and values of a call's tokens, f32 [M, n_kv_heads, head_dim] each, into the cache or the pages. Keys are already turned by the
/// rotary embedding. Positions written before are replaced.
///
/// Fails with `MORAY_STATUS_INDEX` for a layer, slot or position out of range, `MORAY_STATUS_LENGTH` for a buffer of another
/// size, `MORAY_STATUS_SHAPE` if call and cache disagree, `MORAY_STATUS_BUSY` if another thread is using the cache; with pages
/// `MORAY_STATUS_MISALIGNED` and `MORAY_STATUS_OVERLAP` for their memory, `MORAY_STATUS_UNSUPPORTED` for `MORAY_KV_HOLE` without `present`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_write_kv(
    cpu: *const MorayCpu,
    call: *const MorayAttend,
    policy: MorayKvPolicy,
    k: MorayBytes,
    v: MorayBytes,
) -> MorayStatus {
    // SAFETY: the caller's.
    guard(|| unsafe { write(&borrow("cpu", cpu)?.0, sized("call", call)?, policy, k, v) })
}

/// Writes keys and values.
///
/// # Safety
/// As [`moray_write_kv`].
pub(crate) unsafe fn write(
    cpu: &Cpu,
    call: &MorayAttend,
    policy: MorayKvPolicy,
    k: MorayBytes,
    v: MorayBytes,
) -> Outcome {
    let policy = match policy {
        MORAY_KV_WRITE_ALL => KvPolicy::WriteAll,
        MORAY_KV_HOLE => KvPolicy::Hole,
        MORAY_KV_ZERO => KvPolicy::Zero,
        other => return Err(Fault::unsupported("policy", "a MORAY_KV_ constant", other)),
    };
    // SAFETY: the caller's.
    let (k, v) = unsafe { (k.read("k")?, v.read("v")?) };
    let write = |call: &Call<'_>, _: &MorayAttention, kv: Kv<'_>| match kv {
        Kv::Cache(cache) => {
            let mut cache = unless_busy("cache", cache.0.try_write())?;
            Ok(write_kv(cpu, call, policy, None, k, v, &mut cache)?)
        }
        Kv::Pages(pages) => {
            let read = [("k", MorayBytes::of(k).range()), ("v", MorayBytes::of(v).range())];
            // SAFETY: the memory is the caller's, apart from what is read.
            let mut kv = unsafe { pages.view_mut(call.shape.n_kv_heads, call.shape.head_dim, &read)? };
            Ok(write_kv_paged(cpu, call, policy, None, k, v, &mut kv)?)
        }
    };
    // SAFETY: the caller's.
    unsafe { call.with(write) }
}

/// Computes out[t, h] = sum over j of softmax_j(q[t, h] * k[j] / sqrt(head_dim)) * v[j] over the positions j up to t's own that the
/// cache holds, for the heads that run; others give zeros. q and out are f32 [M, n_q_heads, head_dim], q turned by the rotary
/// embedding; the call's own tokens have been written. `cpu` is the one that `attention` was made with, or another of no more threads.
/// Of `out`, what is not of the call's ranges of spans and KV heads is neither read nor written.
///
/// Several threads may share one call by ranges that do not overlap, each with the same `out` and `cache`, an `attention` of its own and a
/// CPU device of one thread, once one of them has written the call's tokens. A range is not divided along the context.
///
/// Fails as `moray_write_kv`, with `MORAY_STATUS_NOT_INCREASING` for a list with duplicates, `MORAY_STATUS_OVERLAP` if `out` overlaps
/// `q`, `MORAY_STATUS_INDEX` for ranges past the last span or KV head.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_attend(
    cpu: *const MorayCpu,
    call: *const MorayAttend,
    q: MorayBytes,
    out: MorayBytesMut,
) -> MorayStatus {
    // SAFETY: the caller's.
    guard(|| unsafe { attend(&borrow("cpu", cpu)?.0, sized("call", call)?, q, out) })
}

/// Computes attention.
///
/// # Safety
/// As [`moray_attend`].
pub(crate) unsafe fn attend(cpu: &Cpu, call: &MorayAttend, q: MorayBytes, out: MorayBytesMut) -> Outcome {
    out.check_apart("out", &[("q", q.range())])?;
    let out_memory = out;
    // SAFETY: the memory is the caller's, apart from what is read; other calls that share it write other rows and heads.
    let (q, out) = unsafe { (q.read("q")?, out.shared("out")?) };
    let (spans, heads) = ((call.span_begin, call.span_end), (call.kv_head_begin, call.kv_head_end));
    let compute = |call: &Call<'_>, attention: &MorayAttention, kv: Kv<'_>| {
        let mut workspace = unless_busy("attention", attention.workspace.try_lock())?;
        let range = |(begin, end): (usize, usize), all: usize| begin..if end == 0 { all } else { end };
        let (spans, heads) = (range(spans, call.spans.len()), range(heads, attention.shape.n_kv_heads));
        match kv {
            Kv::Cache(cache) => {
                let cache = unless_busy("cache", cache.0.try_read())?;
                Ok(attend_range(cpu, call, spans, heads, q, &cache, out, &mut workspace)?)
            }
            Kv::Pages(pages) => {
                out_memory.check_apart("out", &pages.ranges())?;
                // SAFETY: the caller's.
                let kv = unsafe { pages.view(call.shape.n_kv_heads, call.shape.head_dim)? };
                Ok(attend_paged_range(cpu, call, spans, heads, q, &kv, out, &mut workspace)?)
            }
        }
    };
    // SAFETY: the caller's.
    unsafe { call.with(compute) }
}
