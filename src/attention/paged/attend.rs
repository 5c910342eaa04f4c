//! Attention over pages: a block's rows are gathered into the workspace, and multiplied there.

use std::ops::Range;

use super::{PagedKv, Places, elements};
use crate::attention::cpu::Job;
use crate::attention::element::KvElement;
use crate::attention::source::{At, Source, Step};
use crate::attention::storage::with_element;
use crate::attention::{BLOCK, Call, Workspace};
use crate::cpu::Cpu;
use crate::error::Result;
use crate::simd::{Available, ByteRows, Kernel, Simd};
use crate::threads::SharedSlice;

/// Computes as [`crate::attention::attend`], with its bits, over one layer of a cache in memory of an engine's own. The call's `layer` is not looked
/// at; its own tokens have been written.
///
/// | argument | dtype | shape | layout |
/// |---|---|---|---|
/// | `q` | f32 | [M, n_q_heads, head_dim] | row-major, turned by RoPE |
/// | `kv` | f32, f16, bf16, int8 | see [`PagedKv`] | K turned by RoPE |
/// | `out` | f32 | [M, n_q_heads, head_dim] | row-major, all of it written |
///
/// # Errors
/// As [`crate::attention::attend`]; [`crate::Error::Length`] and [`crate::Error::Shape`] for a layout or its memory, [`crate::Error::Misaligned`] for
/// memory that is not aligned as its elements, [`crate::Error::Index`] for entries of the page table. Nothing has been written then.
///
/// # Source
/// Pages: PagedAttention (arXiv 2309.06180); the rest as [`crate::attention::attend`].
///
/// # Example
/// ```
/// use moray::attention::*;
/// let cpu = moray::Cpu::detect();
/// let shape = AttentionShape::new(2, 1, 8)?;
/// // two pages of four positions: the sequence has page 1 before page 0
/// let layout = PageLayout {
///     n_kv_heads: 1, head_dim: 8, n_slots: 1, capacity: 8, n_pages: 2, page_size: 4, max_pages: 2,
///     page_stride: 32, head_stride: 8, row_stride: 8,
/// };
/// let (mut k, mut v, table) = ([0f32; 64], [0f32; 64], [1, 0]);
/// let spans = [Span { slot: 0, start: 0, len: 5 }];
/// let call = Call { shape, layer: 0, spans: &spans, heads: Heads::All };
/// let rows = KvRowsMut::Apart { k: bytemuck::cast_slice_mut(&mut k), v: bytemuck::cast_slice_mut(&mut v) };
/// let mut kv = PagedKvMut { layout, dtype: KvDtype::F32, rows, scales: None, present: None, page_table: Some(&table) };
/// write_kv_paged(&cpu, &call, KvPolicy::WriteAll, None, &[0.5; 40], &[0.25; 40], &mut kv)?;
/// assert_eq!((v[0], v[8], v[32]), (0.25, 0.0, 0.25)); // position 4, none, position 0
///
/// let mut workspace = Workspace::new(&cpu, shape, Limits { max_rows: 5, max_spans: 1, capacity: 8 })?;
/// let (k, v) = (bytemuck::cast_slice(&k), bytemuck::cast_slice(&v));
/// let kv = PagedKv { layout, dtype: KvDtype::F32, k, v, scales: None, present: None, page_table: Some(&table) };
/// let mut out = [f32::NAN; 80];
/// attend_paged(&cpu, &call, &[1.0; 80], &kv, &mut out, &mut workspace)?;
/// assert_eq!(out, [0.25; 80]);
/// # Ok::<(), moray::Error>(())
/// ```
pub fn attend_paged(
    cpu: &Cpu,
    call: &Call<'_>,
    q: &[f32],
    kv: &PagedKv<'_>,
    out: &mut [f32],
    workspace: &mut Workspace,
) -> Result<()> {
    let all = (0..call.spans.len(), 0..call.shape.n_kv_heads);
    attend_paged_range(cpu, call, all.0, all.1, q, kv, out, workspace)
}

/// Computes as [`attend_paged`], only for some spans and the query heads of some KV heads: see [`crate::attention::attend_range`].
///
/// # Errors
/// As [`attend_paged`]; [`crate::Error::Index`] for spans or KV heads past the last.
#[allow(clippy::too_many_arguments)]
pub fn attend_paged_range<'o>(
    cpu: &Cpu,
    call: &Call<'_>,
    spans: Range<usize>,
    kv_heads: Range<usize>,
    q: &[f32],
    kv: &PagedKv<'_>,
    out: impl Into<SharedSlice<'o, f32>>,
    workspace: &mut Workspace,
) -> Result<()> {
    let rows = kv.check(call)?;
    with_element!(kv.dtype, E => {
        let rows_of = [elements::<E>("k cache", kv.k)?, elements::<E>("v cache", kv.v)?];
        let places = Places { layout: kv.layout, table: kv.page_table };
        let pages = Pages { places, rows: rows_of, scales: kv.scales, present: kv.present };
        Job { cpu, call, q, source: &pages }.compute(rows, (spans, kv_heads), out.into(), workspace)
    })
}

/// The rows of a layer.
struct Pages<'a, E> {
    places: Places<'a>,
    rows: [&'a [E]; 2],
    scales: Option<[&'a [f32]; 2]>,
    present: Option<&'a [u32]>,
}

impl<E: KvElement> Source for Pages<'_, E> {
    fn present(&self, at: At, block: usize) -> u64 {
        let Some(words) = self.present else { return u64::MAX };
        let first = self.places.presence(at.slot, at.kv_head) + 2 * block;
        u64::from(words[first]) | u64::from(words[first + 1]) << 32
    }

    fn take(&self, simd: Available, at: At, mut step: Step<'_, '_>) {
        let mut scales = [[0.0; BLOCK]; 2];
        let elems = BLOCK * (step.head_dim + step.head_dim.next_multiple_of(16));
        // the room for a block in f32 is taken out for as long as its rows are multiplied
        let room = std::mem::take(&mut step.scratch.block);
        let block = &mut room[..elems];
        simd.run(Gather { pages: self, at, step: &step, block, scales: &mut scales });
        step.run(simd, block, self.scales.is_some().then_some(&scales), &[]);
        step.scratch.block = room;
    }
}

/// Copies the visible rows of a block: K \[4\]\[head_dim\]\[16\], sixteen positions side by side, then V \[BLOCK\]\[v_stride\].
struct Gather<'a, 'b, E> {
    pages: &'a Pages<'a, E>,
    at: At,
    step: &'a Step<'a, 'b>,
    block: &'a mut [f32],
    scales: &'a mut [[f32; BLOCK]; 2],
}

impl<E: KvElement> Kernel for Gather<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (places, d) = (&self.pages.places, self.step.head_dim);
        let v_stride = d.next_multiple_of(16);
        let (keys, values) = self.block.split_at_mut(BLOCK * d);
        let (keys, values) = (keys.as_chunks_mut::<16>().0, values.as_chunks_mut::<16>().0);
        for (group, keys) in keys.chunks_exact_mut(d).enumerate() {
            let visible = (self.step.visible >> (16 * group)) as u16;
            if visible == 0 {
                continue;
            }
            // rows that nobody sees are read as none: what stands for them is masked
            let mut rows: [&[E]; 16] = [&[]; 16];
            for j in (0..16).filter(|j| visible >> j & 1 == 1) {
                let position = 16 * group + j;
                let page = places.page(self.at.slot, self.step.index * BLOCK + position);
                let (first, index) = (places.row(page, self.at.kv_head), places.scale(page, self.at.kv_head));
                let [k, v] = self.pages.rows.map(|rows| &rows[first..first + d]);
                rows[j] = k;
                for (i, value) in values[position * v_stride / 16..][..v_stride / 16].iter_mut().enumerate() {
                    simd.store(value, load(simd, v, i));
                }
                for (scales, of) in self.scales.iter_mut().zip(self.pages.scales.into_iter().flatten()) {
                    scales[position] = of[index];
                }
            }
            for (i, keys) in keys.chunks_mut(16).enumerate() {
                let mut tile = [[0f32; 16]; 16];
                for (row, tile) in rows.iter().zip(&mut tile).filter(|(row, _)| !row.is_empty()) {
                    simd.store(tile, load(simd, row, i));
                }
                let width = size_of_val(&tile[0]);
                let tile = ByteRows::new(bytemuck::cast_slice(tile.as_flattened()), width, TILE, width);
                // four elements of all rows at a time; a last tile of eight has no more keys
                for (quad, keys) in keys.chunks_mut(4).enumerate() {
                    for (key, lanes) in keys.iter_mut().zip(simd.load_rows(&tile, 16 * quad)) {
                        simd.store(key, simd.as_f32(lanes));
                    }
                }
            }
        }
    }
}

/// The rows of a tile in order.
const TILE: [u32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Sixteen elements of a row, its last eight with zeros behind them where it ends so.
#[inline(always)]
fn load<E: KvElement, S: Simd>(simd: S, row: &[E], index: usize) -> S::F {
    let rest = &row[16 * index..];
    match rest.first_chunk() {
        Some(whole) => E::load(simd, whole),
        None => {
            let mut padded = [E::zeroed(); 16];
            padded[..rest.len()].copy_from_slice(rest);
            E::load(simd, &padded)
        }
    }
}
