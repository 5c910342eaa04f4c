//! 4-bit weights: inputs in int8, of which the kept ones are multiplied.

use super::kept::{PARALLEL_ELEMENTS, is_kept, list};
use super::workspace::Workspace;
use crate::cpu::Cpu;
use crate::error::Result;
use crate::sparse_mlp::{Added, Codes, DownMatrix, SlotLayout, Slots, down_4bit};
use crate::threads::{Pieces, SharedSlice};
use crate::w4a8::{ActScales, Epilogue};
use std::ops::Range;

/// Inputs of the finest group.
const GROUP: usize = 32;

/// Multiplies x \[M, K\], all of which sets the scales and the codes, over the kept inputs whose codes are not 0, for some columns of y.
pub(super) fn multiply(
    cpu: &Cpu,
    matrix: &DownMatrix,
    (x, k, threshold): (&[f32], usize, f32),
    (epilogue, n): (Epilogue<'_, f32>, usize),
    (y, columns): (SharedSlice<'_, f32>, Range<usize>),
    ws: &mut Workspace,
) -> Result<()> {
    let m = x.len() / k;
    ws.int8.set_scales(ActScales::Token);
    ws.int8.quantize(cpu, x, m, k)?;
    list(cpu, (x, k, threshold), Some(&ws.int8), &mut ws.kept);
    ws.slots.clear();
    ws.slots.reserve(k);
    ws.runs.clear();
    ws.runs.reserve(k.div_ceil(GROUP));
    let layout = SlotLayout::of(matrix, true, &ws.kept, m);
    layout.cut((&ws.kept, &ws.kept), &mut ws.slots, &mut ws.runs);
    spread(cpu, layout, (x, k, threshold), ws);
    let (sum_stride, scale) = (k.div_ceil(GROUP), ws.int8.scale());
    let h = Codes { codes: &ws.slot_codes, stride: k, sums: &ws.sums, sum_stride, scale };
    let added = Added { d: n, bias: epilogue.bias, residual: epilogue.residual };
    down_4bit(cpu, matrix, &Slots { layout, slots: &ws.slots, runs: &ws.runs, h }, &added, (y, columns));
    Ok(())
}

/// Puts each token's kept codes into the slots, 0 for what it drops.
fn spread(cpu: &Cpu, layout: SlotLayout, (x, k, threshold): (&[f32], usize, f32), ws: &mut Workspace) {
    let (m, groups) = (x.len() / k, k.div_ceil(GROUP));
    let Workspace { kept, codes, slot_codes, sums, slots, runs, int8, .. } = ws;
    let grow = |len: usize, need: usize| len.max(need);
    codes.resize(grow(codes.len(), m * k), 0);
    slot_codes.resize(grow(slot_codes.len(), m * k), 0);
    sums.resize(grow(sums.len(), m * groups), 0);
    let parts = (
        Pieces::new(&mut codes[..m * k], k),
        Pieces::new(&mut slot_codes[..m * k], k),
        Pieces::new(&mut sums[..m * groups], groups),
    );
    let used = slots.len();
    cpu.team().for_parts(parts, (PARALLEL_ELEMENTS / k).max(1), |token, (codes, slot_codes, sums)| {
        let (x, all) = (&x[token * k..][..k], int8.token(token));
        let codes = &mut codes[..kept.len()];
        if m == 1 {
            // what one token keeps is what is listed
            codes.iter_mut().zip(&*kept).for_each(|(code, &i)| *code = all[i as usize]);
        } else {
            for (code, &i) in codes.iter_mut().zip(&*kept) {
                *code = if is_kept(x[i as usize], threshold) { all[i as usize] } else { 0 };
            }
        }
        layout.spread(codes, kept, runs, &mut slot_codes[..used], sums);
    });
}
