//! 4-bit weights: inputs in int8, of which the kept ones are multiplied.

use super::kept::{PARALLEL_ELEMENTS, is_kept, list};
use super::workspace::Workspace;
use crate::column_sums::{Added, Codes, ColumnMatrix, InputsOfToken, SlotLayout, Slots, sum_codes, sum_inputs};
use crate::cpu::Cpu;
use crate::error::Result;
use crate::threads::{Pieces, SharedSlice};
use crate::w4a8::{ActScales, Epilogue};
use std::ops::Range;

/// Inputs of the finest group.
const GROUP: usize = 32;

/// Multiplies x \[M, K\], all of which sets the scales and the codes, over the kept inputs whose codes are not 0, for some columns of y.
pub(super) fn multiply(
    cpu: &Cpu,
    matrix: &ColumnMatrix,
    (x, k, threshold): (&[f32], usize, f32),
    (epilogue, n): (Epilogue<'_, f32>, usize),
    (y, columns): (SharedSlice<'_, f32>, Range<usize>),
    ws: &mut Workspace,
) -> Result<()> {
    let m = x.len() / k;
    ws.int8.set_scales(ActScales::Token);
    ws.int8.quantize(cpu, x, m, k)?;
    let added = Added { d: n, bias: epilogue.bias, residual: epilogue.residual };
    if m == 1 {
        ws.call_of_members(cpu.threads(), k);
        let Workspace { members, calls, int8, split, .. } = ws;
        let layout = SlotLayout::of(matrix, true, &[], 1);
        let (codes, scale) = (int8.token(0), int8.scale());
        let inputs = InputsOfToken { x, threshold, codes, scale, layout, call: *calls };
        if columns.is_empty() {
            // nobody lists what nothing is multiplied with
            members[0].list(cpu, &inputs);
            return Ok(());
        }
        sum_inputs(cpu, matrix, &inputs, members, &added, (y, columns), split);
        return Ok(());
    }
    ws.by_members = 0;
    let layout = fill_slots(cpu, matrix, (x, k, threshold), ws);
    let (sum_stride, scale) = (k.div_ceil(GROUP), ws.int8.scale());
    let Workspace { slot_codes, sums, slots, split, .. } = ws;
    let h = Codes { codes: slot_codes, stride: k, sums, sum_stride, scale };
    let input = Slots { layout, slots: slots.rows(), runs: slots.runs(), h };
    sum_codes(cpu, matrix, &input, &added, (y, columns), split);
    Ok(())
}

/// Lists what several tokens keep and puts each one's kept codes into the slots, 0 for what it drops.
fn fill_slots(
    cpu: &Cpu,
    matrix: &ColumnMatrix,
    (x, k, threshold): (&[f32], usize, f32),
    ws: &mut Workspace,
) -> SlotLayout {
    let (m, groups) = (x.len() / k, k.div_ceil(GROUP));
    let Workspace { kept, codes, slot_codes, sums, slots, int8, .. } = ws;
    let grow = |len: usize, need: usize| len.max(need);
    slot_codes.resize(grow(slot_codes.len(), m * k + GROUP), 0);
    sums.resize(grow(sums.len(), m * groups), 0);
    list(cpu, (x, k, threshold), Some(&*int8), kept);
    let layout = SlotLayout::of(matrix, true, kept, m);
    layout.cut(cpu, (kept, kept), slots);
    codes.resize(grow(codes.len(), m * k), 0);
    let parts = (
        Pieces::new(&mut codes[..m * k], k),
        Pieces::new(&mut slot_codes[..m * k], k),
        Pieces::new(&mut sums[..m * groups], groups),
    );
    let (kept, slots) = (&**kept, &*slots);
    cpu.team().for_parts(parts, (PARALLEL_ELEMENTS / k).max(1), |token, (codes, slot_codes, sums)| {
        let (x, all) = (&x[token * k..][..k], int8.token(token));
        let codes = &mut codes[..kept.len()];
        for (code, &i) in codes.iter_mut().zip(kept) {
            *code = if is_kept(x[i as usize], threshold) { all[i as usize] } else { 0 };
        }
        layout.spread(cpu, (codes, kept), slots, (slot_codes, sums));
    });
    layout
}
