//! Split K: rows of inputs cut where every call cuts them, so that threads read whole rows.
//!
//! Threads that share the columns of a row read pieces of it, of a kilobyte and less, and memory gives pieces more slowly than rows.

use super::float::{Few, Rows};
use crate::cpu::Cpu;
use crate::simd::SimdElement;
use crate::threads::{Pieces, SharedSlice, Tiles};
use std::ops::Range;

/// Ranges that the rows are cut into, whatever the number of threads; the sums of each are added in order.
pub(crate) const SPLITS: usize = 4;

/// Sums of a unit, which stay in the first-level cache.
const UNIT_SUMS: usize = 4096;

/// Units that each thread gets on average, so that unequal ones balance.
const UNITS_PER_THREAD: usize = 2;

/// Columns that a unit begins and ends at: a cache line of 16-bit weights.
const STEP: usize = 32;

/// The rows of each split among K: from ⌊s · K/4⌋ on.
pub(crate) fn splits(k: usize) -> [Range<usize>; SPLITS] {
    std::array::from_fn(|s| s * k / SPLITS..(s + 1) * k / SPLITS)
}

/// Where the rows of each split stand in an increasing list of rows.
pub(crate) fn splits_of(list: &[u32], k: usize) -> [Range<usize>; SPLITS] {
    splits(k).map(|rows| {
        let at = |row: usize| list.partition_point(|&listed| (listed as usize) < row);
        at(rows.start)..at(rows.end)
    })
}

/// The rows that a few tokens sum, and what each is multiplied with.
#[derive(Clone, Copy)]
pub(crate) struct Kept<'a> {
    /// Where each split's rows stand in `list`.
    pub splits: &'a [Range<usize>; SPLITS],
    pub list: &'a [u32],
    /// f32 \[tokens, stride\], the first `list.len()` of each used.
    pub x: &'a [f32],
    pub stride: usize,
}

/// What such a sum works in; it grows to the largest call seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct SplitSums {
    /// Columns of each unit of a split.
    strips: Vec<Range<usize>>,
    /// f32 \[splits, strips, tokens, width\].
    sums: Vec<f32>,
}

impl SplitSums {
    /// Allocates for up to so many tokens of N columns.
    pub(crate) fn with_capacity(tokens: usize, n: usize) -> Self {
        let width = n + n / 8 + 2 * STEP;
        SplitSums { strips: Vec::with_capacity(width / STEP), sums: Vec::with_capacity(SPLITS * tokens * width) }
    }

    /// Allocates for so many sums of another's.
    pub(crate) fn with_room(len: usize) -> Self {
        SplitSums { strips: Vec::new(), sums: vec![0.0; len] }
    }

    /// So many sums, which hold anything.
    pub(crate) fn room(&mut self, len: usize) -> &mut [f32] {
        if self.sums.len() < len {
            self.sums.resize(len, 0.0);
        }
        &mut self.sums[..len]
    }

    /// Bytes of that.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Range<usize>>() * self.strips.capacity() + size_of::<f32>() * self.sums.capacity()
    }

    /// Sums the rows of `kept`, each times its input, for the tokens of y \[M, N\] and the columns in `asked` (increasing ranges) and
    /// perhaps others between the first and the last of them, and hands each token's sums of a strip in y to `finish` with the token and
    /// the first column. Rows have whole vectors of 16 columns, of which N are used.
    pub(crate) fn run<T: SimdElement>(
        &mut self,
        cpu: &Cpu,
        (rows, kept): (&Rows<'_, T>, Kept<'_>),
        (y, n): (SharedSlice<'_, f32>, usize),
        asked: &[Range<usize>],
        finish: impl Fn(usize, usize, &mut [f32]) + Sync,
    ) {
        let tokens = y.len() / n;
        let hull = hull(asked);
        let width = self.cut(asked, (n, tokens), cpu.threads());
        let (strips, piece) = (&self.strips, tokens * width);
        let need = SPLITS * strips.len() * piece;
        self.sums.resize(self.sums.len().max(need), 0.0);
        let sums = &mut self.sums[..need];
        cpu.team().for_parts(Pieces::new(sums, piece), 1, |unit, sums| {
            let (split, strip) = (kept.splits[unit / strips.len()].clone(), strips[unit % strips.len()].clone());
            let (list, x) = (&kept.list[split.clone()], &kept.x[split.start..]);
            let vectors = strip.len().div_ceil(16);
            cpu.simd().run(Few { rows, kept: list, x, stride: kept.stride, column: strip.start, vectors, sums, width });
        });
        let (sums, split) = (&*sums, strips.len() * piece);
        let tiles = Tiles::new(y, n, hull.clone(), 1, n);
        cpu.team().for_parts(tiles, 1, |token, mut y| {
            for (index, strip) in strips.iter().enumerate() {
                let columns = strip.start.max(hull.start)..strip.end.min(hull.end);
                let y = &mut y.row(0)[columns.start - hull.start..columns.end - hull.start];
                let at = index * piece + token * width + columns.start - strip.start;
                y.copy_from_slice(&sums[at..][..y.len()]);
                for part in sums[at..].chunks(split).skip(1) {
                    y.iter_mut().zip(part).for_each(|(y, part)| *y += part);
                }
                finish(token, columns.start, y);
            }
        });
    }

    /// Cuts the columns asked for into strips; gives how wide one is at most.
    fn cut(&mut self, asked: &[Range<usize>], (n, tokens): (usize, usize), threads: usize) -> usize {
        let least = (UNITS_PER_THREAD * threads).div_ceil(SPLITS);
        let most = (UNIT_SUMS / tokens / STEP * STEP).max(STEP);
        let count = n.div_ceil(most).max(least);
        let width = n.div_ceil(count).next_multiple_of(STEP);
        self.strips.clear();
        for range in asked.iter().filter(|range| !range.is_empty()) {
            let mut start = range.start / STEP * STEP;
            let end = range.end.next_multiple_of(STEP).min(n);
            if let Some(last) = self.strips.last_mut()
                && last.end >= start
            {
                // a line that two ranges share is read once
                last.end = last.end.max(end.min(last.start + width));
                start = last.end;
            }
            while start < end {
                self.strips.push(start..end.min(start + width));
                start += width;
            }
        }
        width
    }
}

/// The columns from the first that is asked for to the last.
pub(crate) fn hull(asked: &[Range<usize>]) -> Range<usize> {
    let mut asked = asked.iter().filter(|range| !range.is_empty());
    asked.next().map_or(0..0, |first| first.start..asked.next_back().unwrap_or(first).end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_cover_the_rows_in_order() {
        for k in [0, 1, 3, 4, 5, 576, 1001] {
            let splits = splits(k);
            assert!(splits.iter().flat_map(Range::clone).eq(0..k));
            assert!(splits.iter().all(|split| split.len().abs_diff(k / SPLITS) <= 1));
            let odd: Vec<u32> = (0..k as u32).filter(|row| row % 2 == 1).collect();
            for (rows, at) in splits.iter().zip(splits_of(&odd, k)) {
                assert!(odd[at].iter().map(|&row| row as usize).eq(rows.clone().filter(|row| row % 2 == 1)));
            }
        }
    }

    #[test]
    fn strips_hold_what_is_asked_for_once() {
        let asked = [vec![0..1000], vec![0..64, 64..128, 500..501], vec![3..3, 7..40, 41..45, 990..1000], vec![]];
        for (asked, tokens, threads) in asked.iter().flat_map(|a| [(a, 1, 1), (a, 1, 16), (a, 8, 2)]) {
            let mut split = SplitSums::default();
            let width = split.cut(asked, (1000, tokens), threads);
            assert!(width % STEP == 0 && width * tokens <= UNIT_SUMS);
            let columns: Vec<usize> = split.strips.iter().flat_map(Range::clone).collect();
            assert!(columns.is_sorted_by(|a, b| a < b), "{:?}", split.strips);
            assert!(asked.iter().flat_map(Range::clone).all(|column| columns.contains(&column)), "{:?}", split.strips);
            let near =
                |column: usize| asked.iter().any(|a| !a.is_empty() && column + STEP > a.start && column < a.end + STEP);
            assert!(columns.iter().all(|&column| column < 1000 && near(column)));
            assert!(split.strips.iter().all(|strip| strip.len() <= width && strip.start % STEP == 0));
        }
    }
}
