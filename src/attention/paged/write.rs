//! Writing keys and values into pages.

use super::{Lengths, PageLayout, Places, check_pages, misaligned};
use crate::attention::element::{KvElement, scale_of};
use crate::attention::storage::with_element;
use crate::attention::write::{Source, check_rows};
use crate::attention::{Call, KvDtype, KvPolicy, MAX_HEAD_DIM, Rope};
use crate::cpu::Cpu;
use crate::error::{Error, Result};
use crate::simd::{Kernel, Simd};

/// One layer of a KV cache in memory of an engine's own, to be written by [`write_kv_paged`]: see [`super::PagedKv`].
#[derive(Debug)]
pub struct PagedKvMut<'a> {
    /// Where rows lie.
    pub layout: PageLayout,
    /// What they are stored as.
    pub dtype: KvDtype,
    /// Keys after RoPE, and values.
    pub rows: KvRowsMut<'a>,
    /// f32 \[n_pages, n_kv_heads, page_size\] of K and of V for [`KvDtype::Int8`], else None.
    pub scales: Option<[&'a mut [f32]; 2]>,
    /// u32 \[n_slots, n_kv_heads, [`PageLayout::present_words`]\]; None: a cache without holes.
    pub present: Option<&'a mut [u32]>,
    /// u32 \[n_slots, max_pages\], entries of pages that are written below `n_pages`. None: slot s is page s.
    pub page_table: Option<&'a [u32]>,
}

/// The memory of keys and of values: bytes of elements, aligned as those are.
#[derive(Debug)]
pub enum KvRowsMut<'a> {
    /// Two allocations.
    Apart {
        /// Keys.
        k: &'a mut [u8],
        /// Values.
        v: &'a mut [u8],
    },
    /// One, in which the rows of both lie between each other.
    Together {
        /// Both.
        memory: &'a mut [u8],
        /// Where keys begin, in bytes.
        k: usize,
        /// Where values begin, in bytes.
        v: usize,
    },
}

impl KvRowsMut<'_> {
    /// Bytes from the first key on, and from the first value on.
    fn lengths(&self) -> [usize; 2] {
        match self {
            KvRowsMut::Apart { k, v } => [k.len(), v.len()],
            KvRowsMut::Together { memory, k, v } => [k, v].map(|first| memory.len().saturating_sub(*first)),
        }
    }

    /// As elements.
    fn elements<E: bytemuck::Pod>(&mut self) -> Result<Rows<'_, E>> {
        match self {
            KvRowsMut::Apart { k, v } => Ok(Rows::Apart([elements_mut("k cache", k)?, elements_mut("v cache", v)?])),
            KvRowsMut::Together { memory, k, v } => {
                for (what, first) in [("k cache", *k), ("v cache", *v)] {
                    if first % size_of::<E>() != 0 {
                        return Err(misaligned::<E>(what, &memory[first.min(memory.len())..]));
                    }
                }
                Ok(Rows::Together(elements_mut("k cache", memory)?, [*k, *v].map(|first| first / size_of::<E>())))
            }
        }
    }
}

/// [`KvRowsMut`] by elements.
enum Rows<'a, E> {
    Apart([&'a mut [E]; 2]),
    Together(&'a mut [E], [usize; 2]),
}

impl<E> Rows<'_, E> {
    /// A row of K (0) or of V (1).
    fn row(&mut self, which: usize, first: usize, len: usize) -> &mut [E] {
        match self {
            Rows::Apart(parts) => &mut parts[which][first..first + len],
            Rows::Together(both, starts) => &mut both[starts[which] + first..][..len],
        }
    }
}

fn elements_mut<'a, E: bytemuck::Pod>(what: &'static str, bytes: &'a mut [u8]) -> Result<&'a mut [E]> {
    let whole = bytes.len() - bytes.len() % size_of::<E>();
    let refused = misaligned::<E>(what, bytes);
    bytemuck::try_cast_slice_mut(&mut bytes[..whole]).map_err(|_| refused)
}

/// Writes the K and V of a call's tokens into one layer of a cache in memory of an engine's own, with the numbers of
/// [`crate::attention::write_kv`]: `layer` of the call is not looked at. The caller's thread writes all of it.
///
/// k and v are f32, [M, n_kv_heads · head_dim], k turned by `rope` (`None`: it is already turned, or the model has no RoPE). Rows of other
/// positions, and what lies between rows, stay as they are. Policies that leave holes need `present`, which is kept of all that is written.
///
/// # Errors
/// As [`crate::attention::write_kv`]; [`Error::Length`] and [`Error::Shape`] for a layout or its memory, such as rows of V that lie over rows of K,
/// [`Error::Misaligned`] for memory that is not aligned as its elements, [`Error::Index`] for entries of the page table, [`Error::Unsupported`] for a policy that leaves holes in
/// a cache that has none. Nothing has been written then.
///
/// # Example
/// See [`super::attend_paged`].
pub fn write_kv_paged(
    cpu: &Cpu,
    call: &Call<'_>,
    policy: KvPolicy,
    rope: Option<&Rope>,
    k: &[f32],
    v: &[f32],
    kv: &mut PagedKvMut<'_>,
) -> Result<()> {
    let rows = kv.check(call)?;
    check_rows(call, rows, rope, [k, v])?;
    if kv.present.is_none() && !matches!(policy, KvPolicy::WriteAll | KvPolicy::Zero) {
        let expected = "write-all or zero, or a cache with holes";
        return Err(Error::Unsupported { what: "kv policy", expected, got: "one that leaves holes".into() });
    }
    with_element!(kv.dtype, E => write::<E>(cpu, call, policy, rope, [k, v], kv))
}

impl PagedKvMut<'_> {
    /// Checks everything but element types' alignment, and returns M.
    fn check(&self, call: &Call<'_>) -> Result<usize> {
        let lengths = Lengths {
            rows: self.rows.lengths(),
            scales: self.scales.as_ref().map(|scales| scales.each_ref().map(|scales| scales.len())),
            present: self.present.as_ref().map(|words| words.len()),
            page_table: self.page_table.map(<[u32]>::len),
        };
        self.layout.check(self.dtype, &lengths)?;
        self.layout.check_apart()?;
        if let KvRowsMut::Together { k, v, .. } = self.rows {
            self.layout.check_pair_apart(self.dtype.bytes(), [k as u64, v as u64])?;
        }
        let rows = call.check(&self.layout.kv_shape(call.layer))?;
        check_pages(&self.layout, self.page_table, call, |span| span.start)?;
        Ok(rows)
    }
}

fn write<E: KvElement>(
    cpu: &Cpu,
    call: &Call<'_>,
    policy: KvPolicy,
    rope: Option<&Rope>,
    of: [&[f32]; 2],
    kv: &mut PagedKvMut<'_>,
) -> Result<()> {
    let places = Places { layout: kv.layout, table: kv.page_table };
    let mut rows = kv.rows.elements::<E>()?;
    let mut first_row = 0;
    for (index, span) in call.spans.iter().enumerate() {
        for kv_head in 0..call.shape.n_kv_heads {
            let source = Source::new(policy, call, (index, kv_head, first_row), rope, of);
            let words = places.presence(span.slot, kv_head);
            for token in 0..span.len {
                let position = span.start + token;
                if let Some(source) = &source {
                    let page = places.page(span.slot, position);
                    let scales = cpu.simd().run(Store {
                        source,
                        token,
                        position,
                        column: kv_head * call.shape.head_dim,
                        head_dim: call.shape.head_dim,
                        first: places.row(page, kv_head),
                        rows: &mut rows,
                    });
                    for (of, scale) in kv.scales.iter_mut().flatten().zip(scales) {
                        of[places.scale(page, kv_head)] = scale;
                    }
                }
                if let Some(present) = &mut kv.present {
                    let (word, bit) = (&mut present[words + position / 32], 1 << (position % 32));
                    *word = if source.is_some() { *word | bit } else { *word & !bit };
                }
            }
        }
        first_row += span.len;
    }
    Ok(())
}

/// Stores one row of K and one of V, and says their scales.
struct Store<'a, 'b, E> {
    source: &'a Source<'a>,
    token: usize,
    position: usize,
    /// Column of the head in k and v.
    column: usize,
    head_dim: usize,
    /// The first element of the row.
    first: usize,
    rows: &'a mut Rows<'b, E>,
}

impl<E: KvElement> Kernel for Store<'_, '_, E> {
    type Output = [f32; 2];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [f32; 2] {
        let d = self.head_dim;
        // sixteen-lane stores run to the padded end
        let (mut k_row, mut v_row) = ([0f32; MAX_HEAD_DIM], [0f32; MAX_HEAD_DIM]);
        self.source.read(self.token, self.column, self.position, [&mut k_row[..d], &mut v_row[..d]]);
        let mut scales = [1.0; 2];
        for (which, (row, scale)) in [k_row, v_row].iter().zip(&mut scales).enumerate() {
            let (found, inverse) = if E::SCALE_ELEMS == 0 { (1.0, 1.0) } else { scale_of(&row[..d]) };
            *scale = found;
            let out = self.rows.row(which, self.first, d);
            for (out, row) in out.chunks_mut(16).zip(row.as_chunks().0) {
                let mut narrow = [E::zeroed(); 16];
                E::store(simd, &mut narrow, simd.load(row), inverse);
                out.copy_from_slice(&narrow[..out.len()]);
            }
        }
        scales
    }
}
