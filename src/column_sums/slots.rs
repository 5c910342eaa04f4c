//! Which rows of 4-bit codes a call sums, block after block: a row's place is a slot.

use super::four_bit::Run;
use super::{Codes, ColumnMatrix, SEGMENT, Slots};
use crate::cpu::Cpu;
use crate::simd::{Kernel, Simd, load_first};

/// Tokens for which rows that are all there are turned into panels, before they are multiplied.
pub(crate) const PANEL_TOKENS: usize = 16;

/// Elements that are copied together, and that buffers have beyond what is used.
const STEP: usize = 32;

/// The row of each slot, and the slots of each block; grows to the largest call seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct SlotList {
    /// The first [`SlotList::used`] are in use.
    rows: Vec<u32>,
    used: usize,
    runs: Vec<Run>,
}

impl SlotList {
    /// Allocates for up to K rows.
    pub(crate) fn with_capacity(k: usize) -> Self {
        let mut list = SlotList::default();
        if k > 0 {
            list.make_room(k);
        }
        list
    }

    /// Bytes of that.
    pub(crate) fn bytes(&self) -> usize {
        4 * self.rows.capacity() + size_of::<Run>() * self.runs.capacity()
    }

    /// The row of each slot.
    pub(crate) fn rows(&self) -> &[u32] {
        &self.rows[..self.used]
    }

    /// The slots of each block that a call touches.
    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Empties the list, and makes room for the slots of K rows.
    fn make_room(&mut self, k: usize) {
        let need = k.next_multiple_of(SEGMENT) + STEP;
        if self.rows.len() < need {
            self.rows.resize(need, 0);
        }
        self.used = 0;
        self.runs.clear();
        self.runs.reserve(k.div_ceil(SEGMENT));
    }
}

/// Which slots a call's rows are in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SlotLayout {
    group_size: usize,
    /// All inputs.
    k: usize,
    /// Whether all are taken, those too that no token keeps.
    is_whole: bool,
}

impl SlotLayout {
    /// Takes all rows where many tokens leave out few of the K inputs, if `matrix` has them all: they are then multiplied as those of packed
    /// weights are.
    pub(crate) fn of(matrix: &ColumnMatrix, has_all: bool, kept: &[u32], tokens: usize) -> Self {
        let k = matrix.k();
        let is_whole = has_all && tokens >= PANEL_TOKENS && 4 * kept.len() >= 3 * k && k % SEGMENT == 0;
        SlotLayout { group_size: matrix.group_size, k, is_whole }
    }

    /// Whether all rows are taken.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Lists the blocks of `group_size` neurons that `kept` touches, and the row of each neuron; a block is padded to whole quads with
    /// its last row.
    pub(crate) fn cut(&self, cpu: &Cpu, (kept, rows): (&[u32], &[u32]), list: &mut SlotList) {
        list.make_room(self.k);
        if self.is_whole {
            list.rows.iter_mut().zip(0..self.k as u32).for_each(|(row, j)| *row = j);
            list.used = self.k;
            list.runs.extend((0..self.k / self.group_size).map(|block| {
                let start = block * self.group_size;
                Run { block: block as u32, start: start as u32, end: (start + self.group_size) as u32 }
            }));
            return;
        }
        cpu.simd().run(Cut { kept, rows, group_size: self.group_size, list });
    }

    /// Moves codes from positions in `kept` to slots, with zeros in those that nobody keeps, and sums each run.
    pub(crate) fn spread(
        &self,
        cpu: &Cpu,
        (codes, kept): (&[i8], &[u32]),
        list: &SlotList,
        (slots, sums): (&mut [i8], &mut [i32]),
    ) {
        if !self.is_whole {
            return cpu.simd().run(Spread { codes, kept, group_size: self.group_size, list, slots, sums });
        }
        let slots = &mut slots[..self.k];
        if kept.len() == self.k {
            slots.copy_from_slice(codes);
        } else {
            slots.fill(0);
            kept.iter().zip(codes).for_each(|(&j, &code)| slots[j as usize] = code);
        }
        for (run, sum) in slots.chunks_exact(self.group_size).zip(sums) {
            *sum = run.iter().map(|&c| i32::from(c)).sum();
        }
    }
}

/// Copies the first `count` elements, and perhaps some after them: whole steps where there is room, since calls for a few elements cost more.
#[inline(always)]
fn copy<T: Copy>(from: &[T], to: &mut [T], count: usize) {
    for at in (0..count).step_by(STEP) {
        match (from[at..].first_chunk::<STEP>(), to[at..].first_chunk_mut::<STEP>()) {
            (Some(from), Some(to)) => *to = *from,
            _ => return to[at..count].copy_from_slice(&from[at..count]),
        }
    }
}

/// How many of the first numbers of an increasing list are below `end`, of at most [`STEP`].
#[inline(always)]
fn count_below(list: &[u32], end: u32) -> usize {
    let count = |list: &[u32]| list.iter().map(|&j| u32::from(j < end)).sum::<u32>() as usize;
    match list.first_chunk::<STEP>() {
        Some(list) => count(list),
        None => count(list),
    }
}

/// [`SlotLayout::cut`] of a list.
struct Cut<'a> {
    kept: &'a [u32],
    rows: &'a [u32],
    group_size: usize,
    list: &'a mut SlotList,
}

impl Kernel for Cut<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Cut { kept, rows, group_size, list } = self;
        let (mut at, mut used) = (0, 0);
        while at < kept.len() {
            let block = kept[at] / group_size as u32;
            let (start, end) = (used, (block + 1) * group_size as u32);
            loop {
                let count = count_below(&kept[at..], end);
                copy(&rows[at..], &mut list.rows[used..], count);
                (at, used) = (at + count, used + count);
                if count < STEP {
                    break;
                }
            }
            let padded = start + (used - start).next_multiple_of(4);
            list.rows[used..padded].fill(rows[at - 1]);
            used = padded;
            list.runs.push(Run { block, start: start as u32, end: used as u32 });
        }
        list.used = used;
    }
}

/// [`SlotLayout::spread`] of a list.
struct Spread<'a> {
    codes: &'a [i8],
    kept: &'a [u32],
    group_size: usize,
    list: &'a SlotList,
    slots: &'a mut [i8],
    sums: &'a mut [i32],
}

impl Kernel for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Spread { codes, kept, group_size, list, slots, sums } = self;
        let mut at = 0;
        for (run, sum) in list.runs.iter().zip(sums) {
            let (start, end) = (run.start as usize, run.end as usize);
            let next = (run.block + 1) * group_size as u32;
            // a run is padded by at most three slots
            let least = end - start - 3;
            let count = least + kept[at + least..].iter().take(3).map(|&j| usize::from(j < next)).sum::<usize>();
            copy(&codes[at..], &mut slots[start..], count);
            slots[start + count..end].fill(0);
            *sum = slots[start..end].iter().map(|&c| i32::from(c)).sum();
            at += count;
        }
    }
}

/// A token's inputs, of which those are kept whose size is above a threshold, or NaN, and whose code is not 0.
pub(crate) struct InputsOfToken<'a> {
    /// \[K\], a multiple of 32.
    pub x: &'a [f32],
    pub threshold: f32,
    /// Their int8 form, \[K\] and perhaps more, and its scale.
    pub codes: &'a [i8],
    pub scale: &'a [f32],
    pub layout: SlotLayout,
    /// Its number, other than that of the calls before it.
    pub call: u64,
}

/// Slots of one token that a member of a team lists for itself, in cache lines that no other member writes.
#[derive(Debug, Clone, Default)]
#[repr(align(128))]
pub(crate) struct OwnSlots {
    /// The call that they are of.
    call: u64,
    kept: Vec<u32>,
    count: usize,
    list: SlotList,
    codes: Vec<i8>,
    sums: Vec<i32>,
}

impl OwnSlots {
    /// Allocates for K inputs.
    pub(crate) fn with_capacity(k: usize) -> Self {
        let list = SlotList::with_capacity(k);
        OwnSlots {
            call: 0,
            kept: vec![0; k + STEP],
            count: 0,
            list,
            codes: vec![0; k + STEP],
            sums: vec![0; k.div_ceil(SEGMENT)],
        }
    }

    /// The inputs that are kept in a call, if the member has listed them.
    pub(crate) fn kept_in(&self, call: u64) -> Option<&[u32]> {
        (call > 0 && self.call == call).then(|| &self.kept[..self.count])
    }

    /// The slots of a token, listed when a call first asks for them.
    pub(crate) fn list<'a>(&'a mut self, cpu: &Cpu, inputs: &InputsOfToken<'a>) -> Slots<'a> {
        let &InputsOfToken { x, threshold, codes, scale, layout, call } = inputs;
        if self.call != call {
            let OwnSlots { kept, list, codes: slots, sums, .. } = &mut *self;
            self.count = cpu.simd().run(OfInputs { x, threshold, codes, layout, kept, list, slots, sums });
            self.call = call;
        }
        let h = Codes { codes: &self.codes, stride: x.len(), sums: &self.sums, sum_stride: self.sums.len(), scale };
        Slots { layout, slots: self.list.rows(), runs: self.list.runs(), h }
    }
}

/// One token's slots straight from its inputs: those whose size is above a threshold, or NaN, and whose code is not 0. It is what
/// [`SlotLayout::cut`] and [`SlotLayout::spread`] make of their list, which is written too.
struct OfInputs<'a> {
    x: &'a [f32],
    threshold: f32,
    codes: &'a [i8],
    layout: SlotLayout,
    /// Room for the list, K and 32 or more.
    kept: &'a mut [u32],
    list: &'a mut SlotList,
    /// Room for the codes of all slots, K and 32 or more, and for the sums of all runs.
    slots: &'a mut [i8],
    sums: &'a mut [i32],
}

impl Kernel for OfInputs<'_> {
    /// How many inputs are in `kept`.
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> usize {
        let OfInputs { x, threshold, codes, layout, kept, list, slots, sums } = self;
        let (k, group_size) = (x.len(), layout.group_size);
        assert!(!layout.is_whole && k == layout.k && k % SEGMENT == 0 && codes.len() >= k);
        assert!(kept.len() >= k + STEP && slots.len() >= k + STEP && sums.len() >= k / SEGMENT);
        list.make_room(k);
        let (threshold, zero) = (simd.splat(threshold), simd.splat(0.0));
        let (mut count, mut used) = (0, 0);
        for (block, at) in (0..k).step_by(group_size).enumerate() {
            let (start, mut sum) = (used, zero);
            for at in (at..k.min(at + group_size)).step_by(16) {
                let (code, rows, packed) = (&codes[at..], &mut list.rows[used..], &mut slots[used..]);
                let (Some(code), Some(rows), Some(kept), Some(packed)) = (
                    code.first_chunk(),
                    rows.first_chunk_mut(),
                    kept[count..].first_chunk_mut(),
                    packed.first_chunk_mut(),
                ) else {
                    unreachable!("K is a multiple of 32, and buffers have a step more");
                };
                let lanes = simd.load_i8(code);
                let below = simd.ge_mask(threshold, simd.abs(load_first(simd, &x[at..])));
                let bits = !below & simd.gt_mask(simd.abs(lanes), zero);
                let mut lanes_kept = [0; 16];
                let more = simd.list_lanes(bits, at as u32, &mut lanes_kept);
                (*rows, *kept) = (lanes_kept, lanes_kept);
                (used, count) = (used + more, count + more);
                simd.pack_lanes(bits, code, packed);
                sum = simd.add(sum, simd.select(bits, lanes, zero));
            }
            if used == start {
                continue;
            }
            // rows of four: the last once more, times 0
            let last = list.rows[used - 1];
            list.rows[used..][..3].fill(last);
            slots[used..][..3].fill(0);
            used = start + (used - start).next_multiple_of(4);
            sums[list.runs.len()] = simd.sum(sum) as i32;
            list.runs.push(Run { block: block as u32, start: start as u32, end: used as u32 });
        }
        list.used = used;
        count
    }
}
