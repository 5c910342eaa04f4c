//! Attention over a cache of the caller's, in tensors of the CPU.

use super::call::Arguments;
use super::functions::{Returned, cpu};
use super::numbered::Numbered;
use super::tensor::{F32, I64, Rows};
use crate::arguments::{MorayBytes, MorayBytesMut};
use crate::attention::*;
use crate::kv_pages::MorayKvPages;
use crate::status::{Fault, Outcome};
use moray::attention::PageLayout;
use std::sync::{Mutex, PoisonError};

static ATTENTIONS: Numbered<Held> = Numbered::new("attention", "the number of an attention");

struct Held {
    shape: MorayAttentionShape,
    threads: usize,
    /// What no call works in at the moment.
    free: Mutex<Vec<MorayAttention>>,
}

impl Held {
    fn make(&self) -> Outcome<MorayAttention> {
        MorayAttention::new(&*cpu(self.threads)?, &self.shape)
    }

    fn give(&self, attention: MorayAttention) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(attention);
    }

    /// # Safety
    /// As [`pages`].
    unsafe fn pages(&self, arguments: &mut Arguments<'_>) -> Outcome<MorayKvPages> {
        // SAFETY: the caller's.
        unsafe { pages(arguments, Some(self.shape.n_kv_heads), self.shape.head_dim).map(|(pages, _)| pages) }
    }

    /// Runs a call with memory that no other has.
    fn with(&self, call: impl FnOnce(*mut MorayAttention) -> Outcome) -> Returned {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut attention = free.map_or_else(|| self.make(), Ok)?;
        let computed = call(&raw mut attention);
        self.give(attention);
        computed.map(|()| None)
    }
}

/// `(n_q_heads, n_kv_heads, head_dim, max_rows, max_spans, capacity, threads) -> int`
pub(super) unsafe fn attention_create(arguments: &mut Arguments<'_>) -> Returned {
    let mut size = |what| arguments.size(what);
    let shape = MorayAttentionShape {
        n_q_heads: size("n_q_heads")?,
        n_kv_heads: size("n_kv_heads")?,
        head_dim: size("head_dim")?,
        max_rows: size("max_rows")?,
        max_spans: size("max_spans")?,
        capacity: size("capacity")?,
    };
    let threads = size("threads")?;
    arguments.end()?;
    let held = Held { shape, threads, free: Mutex::default() };
    held.give(held.make()?);
    Ok(Some(ATTENTIONS.add(held)))
}

/// `(attention)`
pub(super) unsafe fn attention_destroy(arguments: &mut Arguments<'_>) -> Returned {
    let number = arguments.size("attention")?;
    arguments.end()?;
    ATTENTIONS.remove(number).map(|()| None)
}

/// `(k, v, attention, spans, policy, heads.., pages..)`
pub(super) unsafe fn write_kv(arguments: &mut Arguments<'_>) -> Returned {
    // SAFETY: the caller's.
    let (k, v) = unsafe { (arguments.tensor("k")?, arguments.tensor("v")?) };
    let held = ATTENTIONS.get(arguments.size("attention")?)?;
    // SAFETY: the caller's.
    let spans = unsafe { spans(arguments)? };
    let names = [("write_all", MORAY_KV_WRITE_ALL), ("hole", MORAY_KV_HOLE), ("zero", MORAY_KV_ZERO)];
    // SAFETY: the caller's.
    let policy = unsafe { arguments.name("policy", &names)? };
    // SAFETY: the caller's.
    let (heads, pages) = unsafe { (Heads::of(arguments)?, held.pages(arguments)?) };
    arguments.end()?;
    let (k, v) = (heads_of("k", k, &held.shape, false)?, heads_of("v", v, &held.shape, false)?);
    held.with(|attention| {
        let call = heads.call(attention, &spans, &pages);
        // SAFETY: the caller's; spans, pages and what attention works in live during the call.
        unsafe { crate::attention::write(&*cpu(held.threads)?, &call, policy, k.read(), v.read()) }
    })
}

/// `(out, q, attention, spans, heads.., pages..)`
pub(super) unsafe fn attend(arguments: &mut Arguments<'_>) -> Returned {
    // SAFETY: the caller's.
    let (out, q) = unsafe { (arguments.tensor("out")?, arguments.tensor("q")?) };
    let held = ATTENTIONS.get(arguments.size("attention")?)?;
    // SAFETY: the caller's.
    let spans = unsafe { spans(arguments)? };
    // SAFETY: the caller's.
    let (heads, pages) = unsafe { (Heads::of(arguments)?, held.pages(arguments)?) };
    arguments.end()?;
    let q = heads_of("q", q, &held.shape, true)?;
    let out = out.of("out", F32)?.shaped("out", &q.shape)?;
    held.with(|attention| {
        let call = heads.call(attention, &spans, &pages);
        // SAFETY: the caller's; spans, pages and what attention works in live during the call.
        unsafe { crate::attention::attend(&*cpu(held.threads)?, &call, q.read(), out.write()) }
    })
}

/// Checks f32 [M, heads, head_dim] of query or KV heads.
fn heads_of(what: &'static str, rows: Rows, shape: &MorayAttentionShape, is_query: bool) -> Outcome<Rows> {
    let heads = if is_query { shape.n_q_heads } else { shape.n_kv_heads };
    let tokens = rows.shape.first().copied().unwrap_or(0);
    rows.of(what, F32)?.shaped(what, &[tokens, heads, shape.head_dim])
}

/// Slot, start and length of each: i64 [spans, 3].
///
/// # Safety
/// As [`Arguments::tensor`].
unsafe fn spans(arguments: &mut Arguments<'_>) -> Outcome<Vec<MoraySpan>> {
    // SAFETY: the caller's.
    let rows = unsafe { arguments.tensor("spans")? }.of("spans", I64)?;
    let [count, _] = rows.matrix("spans")?;
    let rows = rows.shaped("spans", &[count, 3])?;
    // SAFETY: the caller's.
    let numbers = unsafe { rows.read().read::<i64>("spans")? };
    let size = |got: i64| usize::try_from(got).map_err(|_| Fault::unsupported("spans", "numbers from 0", got));
    let span = |&[slot, start, len]: &[i64; 3]| -> Outcome<MoraySpan> {
        Ok(MoraySpan { slot: size(slot)?, start: size(start)?, len: size(len)? })
    };
    numbers.as_chunks::<3>().0.iter().map(span).collect()
}

/// Which heads run: `(heads, list, counts)`.
pub(super) struct Heads {
    pub(super) kind: MorayHeads,
    pub(super) list: MorayBytes,
    pub(super) counts: MorayBytes,
    /// Entries of a span's list.
    pub(super) width: usize,
}

impl Heads {
    /// # Safety
    /// As [`Arguments::tensor`].
    pub(super) unsafe fn of(arguments: &mut Arguments<'_>) -> Outcome<Self> {
        let names = [
            ("all", MORAY_HEADS_ALL),
            ("list", MORAY_HEADS_LIST),
            ("groups", MORAY_HEADS_GROUPS),
            ("mask", MORAY_HEADS_MASK),
        ];
        // SAFETY: the caller's.
        let kind = unsafe { arguments.name("heads", &names)? };
        let mut words = |what| -> Outcome<Option<Rows>> {
            // SAFETY: the caller's.
            unsafe { arguments.optional(what)? }.map(|rows| rows.words(what)).transpose()
        };
        let (list, counts) = (words("list")?, words("counts")?);
        let width = list.as_ref().map_or(Ok(0), |list| list.matrix("list").map(|[_, width]| width))?;
        let [list, counts] = [list, counts].map(|words| words.map_or(MorayBytes::NONE, |rows| rows.read()));
        Ok(Heads { kind, list, counts, width })
    }

    fn call(&self, attention: *mut MorayAttention, spans: &[MoraySpan], pages: &MorayKvPages) -> MorayAttend {
        MorayAttend {
            struct_size: size_of::<MorayAttend>() as u32,
            heads: self.kind,
            attention,
            cache: std::ptr::null_mut(),
            layer: 0,
            spans: spans.as_ptr(),
            n_spans: spans.len(),
            list: self.list,
            counts: self.counts,
            span_begin: 0,
            span_end: 0,
            kv_head_begin: 0,
            kv_head_end: 0,
            pages,
        }
    }
}

/// `(k, v, layout, capacity, page_table, k_scale, v_scale, present)` of a cache with so many elements and KV heads, and how many it has.
///
/// # Safety
/// As [`Arguments::tensor`].
pub(super) unsafe fn pages(
    arguments: &mut Arguments<'_>,
    n_kv_heads: Option<usize>,
    head_dim: usize,
) -> Outcome<(MorayKvPages, usize)> {
    // SAFETY: the caller's.
    let (k, v) = unsafe { (arguments.strided("pages.k")?, arguments.strided("pages.v")?) };
    // which dimension positions are; heads are the other
    // SAFETY: the caller's.
    let position = unsafe { arguments.name("layout", &[("NHD", 1), ("HND", 2)])? } as usize;
    let head = 3 - position;
    if k.shape.len() != 4 || k.shape[3] != head_dim || n_kv_heads.is_some_and(|heads| heads != k.shape[head]) {
        let heads = n_kv_heads.map_or(String::new(), |heads| format!("{heads} KV heads and "));
        let expected = format!("4 dimensions, of them {heads}{head_dim} elements");
        return Err(Fault::Argument { what: "pages.k", expected, got: format!("shape {:?}", k.shape) });
    }
    if (&v.shape, &v.strides, v.dtype) != (&k.shape, &k.strides, k.dtype) {
        let expected = format!("shape {:?} with strides {:?} and type of k", k.shape, k.strides);
        let got = format!("shape {:?} with strides {:?}", v.shape, v.strides);
        return Err(Fault::Argument { what: "pages.v", expected, got });
    }
    let (n_pages, page_size, n_kv_heads) = (k.shape[0], k.shape[position], k.shape[head]);
    let capacity = arguments.size("capacity")?;
    // SAFETY: the caller's.
    let mut optional = |what| unsafe { arguments.optional(what) };
    let table = optional("pages.page_table")?.map(|rows| rows.words("pages.page_table")).transpose()?;
    let [n_slots, max_pages] = table.as_ref().map_or(Ok([n_pages, 1]), |table| table.matrix("pages.page_table"))?;
    let scales = [n_pages, n_kv_heads, page_size];
    let none = MorayBytesMut { data: std::ptr::null_mut(), bytes: 0 };
    let mut scale = |what| -> Outcome<MorayBytesMut> {
        let checked = optional(what)?.map(|rows| rows.of(what, F32)?.shaped(what, &scales)).transpose()?;
        Ok(checked.map_or(none, |rows| rows.write()))
    };
    let (k_scale, v_scale) = (scale("pages.k_scale")?, scale("pages.v_scale")?);
    let held = [n_slots, n_kv_heads, PageLayout::present_words(capacity)];
    let present = optional("pages.present")?;
    let present = present.map(|rows| rows.words("pages.present")?.shaped("pages.present", &held)).transpose()?;
    let pages = MorayKvPages {
        dtype: k.stored("pages.k")?,
        k: k.memory(),
        v: v.memory(),
        k_scale,
        v_scale,
        present: present.map_or(none, |rows| rows.write()),
        page_table: table.map_or(MorayBytes::NONE, |rows| rows.read()),
        n_slots,
        n_pages,
        page_size,
        max_pages,
        page_stride: k.strides[0],
        head_stride: k.strides[head],
        row_stride: k.strides[position],
        capacity,
    };
    Ok((pages, n_kv_heads))
}
