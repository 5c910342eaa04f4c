//! A matrix of codes by column, its scales by blocks of columns.

use super::CHUNK;
use super::four_bit::{CHUNKS, Run};
use super::nibbles::{
    RowScale, SEGMENT, SLACK, code_at, dequantize, form_of, format_of, pack_codes, scale_at, unsupported,
};
use crate::Cpu;
use crate::error::Result;
use crate::memory::Memory;
use crate::threads::Pieces;
use crate::w4a8::{Format, MOST_RUNS, Offset, QuantizedWeight, run_end, runs};
#[cfg(any(feature = "cuda-sparse-mlp", feature = "cuda-input-sparse"))]
use crate::w4a8::{Group, GroupScale};
use half::f16;
use std::ops::Range;
use std::sync::Arc;

/// Where the outputs of an input's row are.
///
/// A row is cut into chunks of `segments` segments of 32 columns (the last may have fewer). A chunk's codes of four rows,
/// interleaved, are 4 vectors of bytes and by nibble 8 vectors: lane 4q + p of vector 4·nibble + v is column
/// 32q + 16·nibble + 4v + p of the chunk. Scales are stored chunk by chunk, vector by vector, lane by lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Columns {
    pub d: usize,
    /// Segments of a chunk, 1 to 4.
    pub segments: usize,
}

impl Columns {
    /// As few chunks as 4 segments allow, but an even number of them, so that two, four … threads share them evenly.
    fn new(d: usize) -> Self {
        let all = d / SEGMENT;
        let chunks = all.div_ceil(4);
        let chunks = if chunks > 1 { chunks.next_multiple_of(2) } else { 1 };
        Columns { d, segments: all.div_ceil(chunks) }
    }

    pub(crate) fn chunks(&self) -> usize {
        (self.d / SEGMENT).div_ceil(self.segments)
    }

    /// The segments of one chunk.
    pub(crate) fn segments_of(&self, chunk: usize) -> usize {
        (self.d / SEGMENT - chunk * self.segments).min(self.segments)
    }

    /// The first column of a chunk.
    pub(crate) fn start(&self, chunk: usize) -> usize {
        chunk * self.segments * SEGMENT
    }

    /// Where a column's scale is in a row of scales.
    pub(crate) fn position(&self, column: usize) -> usize {
        let chunk = column / (self.segments * SEGMENT);
        let at = column - self.start(chunk);
        let (q, nibble, v, p) = (at / 32, at / 16 % 2, at / 4 % 4, at % 4);
        self.start(chunk) + (4 * nibble + v) * 4 * self.segments_of(chunk) + 4 * q + p
    }
}

/// Rows that a member copies at a time.
const ROWS: usize = 64;

/// Bytes of a row's piece below which memory gives less than it does of whole rows.
const SHORT_PIECE: usize = 512;

/// A matrix \[N, K\] in 4 bits, held as K rows of the codes of an input's N weights (N padded to d). Scales lie apart, since a group is a block
/// of `group_size` inputs that share one scale for each output: a row of d scales (and one of offsets or zero points) for each block.
#[derive(Debug, Clone)]
pub(crate) struct ColumnMatrix {
    /// Inputs.
    k: usize,
    pub columns: Columns,
    /// What groups have besides a scale; none for a scale of the channel.
    pub offset: Option<Offset>,
    pub group_size: usize,
    codes: Memory<u8>,
    /// f32 \[d\] per channel, empty otherwise.
    pub channel_scale: Arc<Memory<f32>>,
    /// u16 \[blocks, 1 or 2, d\]: f16 scales, then f16 offsets or zero points.
    pub group_params: Arc<Memory<u16>>,
}

impl ColumnMatrix {
    /// Holds the rows of inputs; outputs are padded to whole segments of zeros.
    pub(crate) fn new(what: &'static str, w: &QuantizedWeight) -> Result<Self> {
        let (offset, group_size) = form_of(what, w.format(), w.k())?;
        let (d, d_ff) = (w.n().next_multiple_of(SEGMENT), w.k());
        let columns = Columns::new(d);
        let mut codes = Memory::zeroed(code_room(d_ff, d));
        for (j, row) in codes.chunks_exact_mut(d / 2).take(d_ff).enumerate() {
            pack_codes(|n| if n < w.n() { w.codes()[n * d_ff + j] } else { 0 }, row);
        }
        let parts = parts_of(offset);
        let groups = d_ff / group_size;
        let (channels, params) = if offset.is_none() { (d, 0) } else { (0, groups * parts * d) };
        let (mut channel_scale, mut group_params) = (Memory::zeroed(channels), Memory::zeroed(params));
        for (n, g) in (0..w.n()).flat_map(|n| (0..groups).map(move |g| (n, g))) {
            match scale_at(w, n, g) {
                RowScale::Channel(scale) => channel_scale[columns.position(n)] = scale,
                RowScale::Group(params) => {
                    let at = g * parts * d + columns.position(n);
                    (0..parts).for_each(|part| group_params[at + part * d] = params[part]);
                }
            }
        }
        let (channel_scale, group_params) = (Arc::new(channel_scale), Arc::new(group_params));
        Ok(ColumnMatrix { k: d_ff, columns, offset, group_size, codes, channel_scale, group_params })
    }

    /// Room for the codes of `n` of its inputs; scales are shared.
    pub(crate) fn room(&self, n: usize) -> Self {
        let (channel_scale, group_params) = (Arc::clone(&self.channel_scale), Arc::clone(&self.group_params));
        ColumnMatrix { codes: Memory::resident(code_room(n, self.columns.d)), channel_scale, group_params, ..*self }
    }

    /// Copies the codes of the inputs of a list into `to`, which has room for them.
    pub(crate) fn gather(&self, cpu: &Cpu, list: &[u32], to: &mut Self) -> Result<()> {
        let form = |m: &ColumnMatrix| (m.k, m.columns.d, m.offset, m.group_size);
        if form(self) != form(to) {
            return Err(unsupported("weights to gather", "others than there is room for"));
        }
        copy_rows(cpu, &self.codes, self.columns.d / 2, list, &mut to.codes);
        (to.channel_scale, to.group_params) = (Arc::clone(&self.channel_scale), Arc::clone(&self.group_params));
        Ok(())
    }

    /// The block of inputs after the run of K that a block is in; that of a channel's scale is all of K.
    pub(crate) fn run_end(&self, block: usize) -> usize {
        run_end(self.k, block * self.group_size).div_ceil(self.group_size)
    }

    /// Which of a call's runs of blocks are in each run of K, some in none, and how many have any.
    pub(crate) fn splits(&self, blocks: &[Run]) -> ([Range<usize>; MOST_RUNS], usize) {
        let mut splits = [const { 0..0 }; MOST_RUNS];
        if self.offset.is_none() {
            splits[0] = 0..blocks.len();
            return (splits, usize::from(!blocks.is_empty()));
        }
        let mut from = 0;
        for (split, columns) in splits.iter_mut().zip(runs(self.k)) {
            let end = columns.end.div_ceil(self.group_size);
            let to = from + blocks[from..].partition_point(|run| (run.block as usize) < end);
            *split = from..to;
            from = to;
        }
        let used = splits.iter().filter(|split| !split.is_empty()).count();
        (splits, used)
    }

    /// Runs of K, each of which is summed apart.
    pub(crate) fn runs(&self) -> usize {
        runs(self.k).count()
    }

    /// Whether threads do better with whole rows of some runs of K than with pieces of all rows: pieces are short, and the runs come out even.
    pub(crate) fn splits_pay(&self, chunks: usize, threads: usize) -> bool {
        let count = self.runs();
        threads > 1 && count % threads == 0 && chunks * self.columns.start(1) / 2 < threads * SHORT_PIECE
    }

    /// Sums in f32 of a token whose runs of K are summed apart.
    pub(crate) fn split_sums(&self) -> usize {
        let chunks = self.columns.chunks();
        let strips = chunks.div_ceil(CHUNKS);
        self.runs() * strips * chunks.div_ceil(strips) * CHUNK
    }

    /// Inputs K.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// How the codes of its rows become numbers.
    pub(crate) fn format(&self) -> Format {
        format_of(self.offset, self.group_size)
    }

    /// Rows of scales for each block: 1, or 2 with offsets or zero points.
    pub(crate) fn parts(&self) -> usize {
        parts_of(self.offset)
    }

    /// All rows of codes and at least 16 bytes more.
    pub(crate) fn codes(&self) -> &[u8] {
        &self.codes
    }

    pub(crate) fn bytes(&self) -> usize {
        self.scale_bytes() + self.code_bytes()
    }

    /// Bytes of the codes.
    pub(crate) fn code_bytes(&self) -> usize {
        self.codes.len() - SLACK
    }

    /// Bytes of the scales and what is beside them.
    pub(crate) fn scale_bytes(&self) -> usize {
        self.channel_scale.len() * 4 + self.group_params.len() * 2
    }

    /// The scales, and what is beside them, in the order of the columns: f32 \[d\], or u16 \[blocks, parts, d\].
    #[cfg(any(feature = "cuda-sparse-mlp", feature = "cuda-input-sparse"))]
    pub(crate) fn scales_by_column(&self) -> Vec<u8> {
        let d = self.columns.d;
        let order = |at: usize| at / d * d + self.columns.position(at % d);
        match self.offset {
            None => (0..d).flat_map(|n| self.channel_scale[order(n)].to_le_bytes()).collect(),
            Some(_) => (0..self.group_params.len()).flat_map(|at| self.group_params[order(at)].to_le_bytes()).collect(),
        }
    }

    /// The groups of inputs, of f16 scales; none where channels have the scales.
    #[cfg(any(feature = "cuda-sparse-mlp", feature = "cuda-input-sparse"))]
    pub(crate) fn group(&self) -> Option<Group> {
        self.offset.map(|offset| Group { size: self.group_size, scale: GroupScale::F16, offset })
    }

    /// The numbers of row `j`, which is that of input `number`, f32 of the first `row.len()` outputs.
    pub(crate) fn row(&self, j: usize, number: usize, row: &mut [f32]) {
        row.iter_mut().enumerate().for_each(|(n, out)| *out = self.value(j, number, n));
    }

    /// What [`ColumnMatrix::row`] gives for one output.
    pub(crate) fn value(&self, j: usize, number: usize, n: usize) -> f32 {
        let d = self.columns.d;
        let codes = &self.codes()[j * d / 2..(j + 1) * d / 2];
        let params = number / self.group_size * self.parts() * d;
        let at = self.columns.position(n);
        let (scale, second) = match self.offset {
            None => (self.channel_scale[at], 0),
            Some(Offset::None) => (f16::from_bits(self.group_params[params + at]).to_f32(), 0),
            Some(Offset::F16 | Offset::ZeroPoint) => {
                let scale = f16::from_bits(self.group_params[params + at]).to_f32();
                (scale, self.group_params[params + at + d])
            }
        };
        dequantize(self.offset, code_at(codes, n), scale, second)
    }
}

fn parts_of(offset: Option<Offset>) -> usize {
    match offset {
        None | Some(Offset::None) => 1,
        Some(Offset::F16 | Offset::ZeroPoint) => 2,
    }
}

/// Copies rows of `d` elements of a list, one after another.
pub(crate) fn copy_rows<T: bytemuck::Pod + Send + Sync>(cpu: &Cpu, from: &[T], d: usize, list: &[u32], to: &mut [T]) {
    cpu.team().for_parts(Pieces::new(&mut to[..list.len() * d], ROWS * d), 1, |piece, rows| {
        for (row, &j) in rows.chunks_exact_mut(d).zip(&list[piece * ROWS..]) {
            row.copy_from_slice(&from[j as usize * d..][..d]);
        }
    });
}

/// Room for `n` rows of `d` codes of 4 bits; where there are none, calls still say which columns they would read.
fn code_room(n: usize, d: usize) -> usize {
    n.max(1) * d / 2 + SLACK
}
