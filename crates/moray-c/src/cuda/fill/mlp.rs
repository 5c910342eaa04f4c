//! The sparse MLP.

use super::{element, group};
use crate::cuda::call::Fill;
use crate::cuda::lent::Lent;
use crate::cuda::{
    MORAY_ROWS_BF16, MORAY_ROWS_F16, MORAY_ROWS_FOUR_BIT, MorayCudaMlp, MorayCudaMlpDown, MorayCudaMlpGateUp,
    MorayCudaMlpWeights, MorayCudaRows, MorayCudaSelection, MorayRows,
};
use crate::mlp::{MORAY_ACTIVATION_RELU, MORAY_ACTIVATION_SILU, MorayMlp, MorayMlpShape};
use crate::selection::*;
use crate::status::{Fault, Outcome};
use crate::{MORAY_OFFSET_NONE, MorayBytes, MorayBytesMut};
use moray::device::{Address, Device};
use moray::sparse_mlp::cuda::raw::{
    DownMatrix, List, Matrix, Mlp, MlpDown, MlpGateUp, Neurons, Plan, Score, Selection, Weights,
};
use moray::sparse_mlp::cuda::{PackedRows, PackedWeights, RowFormat};
use moray::sparse_mlp::{Activation, Shape};

/// How an MLP is stored, without addresses.
pub(crate) fn sizes(mlp: &MorayMlp) -> Outcome<MorayCudaMlpWeights> {
    let packed = PackedWeights::new(&mlp.0)?;
    let format = match packed.format {
        RowFormat::F16 => MORAY_ROWS_F16,
        RowFormat::Bf16 => MORAY_ROWS_BF16,
        RowFormat::FourBit => MORAY_ROWS_FOUR_BIT,
    };
    let of = |bytes| MorayBytesMut { data: std::ptr::null_mut(), bytes };
    let rows = |rows: &PackedRows<'_>| MorayCudaRows {
        rows: of(rows.rows.len()),
        scales: of(rows.scales.len()),
        bias: of(size_of_val(rows.bias)),
        group_size: rows.group.map_or(0, |group| group.size as u32),
        offset: rows.group.map_or(MORAY_OFFSET_NONE, |group| group.offset as u32),
    };
    let [gate, up, down] = [&packed.gate, &packed.up, &packed.down].map(rows);
    let Shape { d_model, d_ff, activation } = packed.shape;
    let activation = if activation == Activation::Relu { MORAY_ACTIVATION_RELU } else { MORAY_ACTIVATION_SILU };
    Ok(MorayCudaMlpWeights { shape: MorayMlpShape { d_model, d_ff, activation }, format, gate, up, down })
}

/// Writes an MLP into memory.
///
/// # Safety
/// As [`MorayBytesMut::write`], for each part.
pub(crate) unsafe fn pack(mlp: &MorayMlp, memory: &MorayCudaMlpWeights) -> Outcome {
    let packed = PackedWeights::new(&mlp.0)?;
    let pairs = [(&packed.gate, &memory.gate), (&packed.up, &memory.up), (&packed.down, &memory.down)];
    for (from, to) in pairs {
        let parts = [
            ("rows", &from.rows[..], to.rows),
            ("scales", &from.scales[..], to.scales),
            ("bias", bytemuck::cast_slice(from.bias), to.bias),
        ];
        for (what, from, to) in parts {
            // SAFETY: the caller's.
            let to = unsafe { to.write::<u8>(what)? };
            if to.len() != from.len() {
                return Err(moray::Error::Length { what, expected: from.len(), got: to.len() }.into());
            }
            to.copy_from_slice(from);
        }
    }
    Ok(())
}

/// The names of a matrix's parts.
type Names = [&'static str; 3];

impl MorayCudaRows {
    fn row_matrix(&self, [rows, scales, bias]: Names, lent: &mut Lent) -> Outcome<Matrix> {
        Ok(Matrix {
            rows: lent.read(rows, self.rows.as_read()),
            scales: lent.optional(scales, self.scales.as_read()),
            group: group(self.group_size, self.offset)?,
            bias: lent.optional(bias, self.bias.as_read()),
        })
    }

    fn down_matrix(&self, [rows, scales, bias]: Names, lent: &mut Lent) -> Outcome<DownMatrix> {
        Ok(DownMatrix {
            rows: lent.read(rows, self.rows.as_read()),
            scales: lent.optional(scales, self.scales.as_read()),
            group: group(self.group_size, self.offset)?,
            bias: lent.optional(bias, self.bias.as_read()),
        })
    }
}

fn row_format(rows: MorayRows) -> Outcome<RowFormat> {
    match rows {
        MORAY_ROWS_F16 => Ok(RowFormat::F16),
        MORAY_ROWS_BF16 => Ok(RowFormat::Bf16),
        MORAY_ROWS_FOUR_BIT => Ok(RowFormat::FourBit),
        other => Err(Fault::unsupported("weights.format", "a MORAY_ROWS_ constant", other)),
    }
}

impl MorayCudaSelection {
    fn read(&self, lent: &mut Lent) -> Outcome<Selection> {
        let list = |lent: &mut Lent| List {
            list: lent.read("selection.list", self.list),
            count: lent.read("selection.count", self.count),
        };
        let masks = |lent: &mut Lent| lent.read("selection.masks", self.masks);
        let score = |lent: &mut Lent| {
            let channel_scale = lent.optional("selection.channel_scale", self.channel_scale);
            Ok::<_, Fault>(Score { on: score_on(self.score)?, channel_scale })
        };
        match self.kind {
            MORAY_SELECT_ALL => Ok(Selection::All),
            MORAY_SELECT_LIST => Ok(Selection::List(list(lent))),
            MORAY_SELECT_MASKS => Ok(Selection::Masks(masks(lent))),
            MORAY_SELECT_UNION => Ok(Selection::Union { list: list(lent), masks: masks(lent) }),
            MORAY_SELECT_THRESHOLD => Ok(Selection::Threshold { score: score(lent)?, threshold: self.threshold }),
            MORAY_SELECT_TOP_K => Ok(Selection::TopK { score: score(lent)?, k: self.k }),
            other => Err(Fault::unsupported("selection.kind", "a MORAY_SELECT_ constant", other)),
        }
    }
}

impl MorayCudaMlpWeights {
    fn plan(&self, max_tokens: usize, device: &Device) -> Outcome<Plan> {
        let multiprocessors = device.multiprocessors() as usize;
        Ok(Plan::new(row_format(self.format)?, self.shape.read()?, max_tokens, multiprocessors)?)
    }
}

/// A list and its count, or none where both are left out.
fn listed(list: MorayBytes, count: MorayBytes, lent: &mut Lent) -> Option<List> {
    let is_there = !list.is_none() || !count.is_none();
    is_there.then(|| List { list: lent.read("list", list), count: lent.read("count", count) })
}

impl Fill for MorayCudaMlpGateUp {
    type Call = MlpGateUp;

    fn fill(&self, device: &Device, lent: &mut Lent) -> Outcome<MlpGateUp> {
        let plan = self.weights.plan(self.max_tokens, device)?;
        let MorayCudaMlpWeights { gate, up, .. } = self.weights;
        let gate = match self.gate_is_given {
            0 => Some(gate.row_matrix(["gate.rows", "gate.scales", "gate.bias"], lent)?),
            1 => None,
            other => return Err(Fault::unsupported("gate_is_given", "0 or 1", other)),
        };
        let up = match self.hidden.is_none() {
            true => None,
            false => Some(up.row_matrix(["up.rows", "up.scales", "up.bias"], lent)?),
        };
        let workspace_bytes = plan.workspace_bytes();
        Ok(MlpGateUp {
            plan,
            gate,
            up,
            neurons: Neurons {
                list: listed(self.list, self.count, lent),
                masks: lent.optional("masks", self.masks),
                limit: plan.shape().d_ff,
            },
            tokens: self.tokens,
            x: lent.read("x", self.x),
            x_type: element(self.x_dtype)?,
            gate_values: match gate {
                Some(_) => lent.write("gate", self.gate),
                None => lent.read("gate", self.gate.as_read()),
            },
            hidden: lent.optional_write("hidden", self.hidden),
            workspace: lent.write_within("workspace", self.workspace, workspace_bytes).cast(),
            workspace_bytes,
        })
    }

    fn bytes(call: &MlpGateUp, _: &Device) -> usize {
        call.workspace_bytes
    }
}

impl Fill for MorayCudaMlpDown {
    type Call = MlpDown;

    fn fill(&self, device: &Device, lent: &mut Lent) -> Outcome<MlpDown> {
        let plan = self.weights.plan(self.max_tokens, device)?;
        let workspace_bytes = plan.workspace_bytes();
        Ok(MlpDown {
            plan,
            matrix: self.weights.down.down_matrix(["down.rows", "down.scales", "down.bias"], lent)?,
            list: listed(self.list, self.count, lent),
            tokens: self.tokens,
            hidden: lent.read("hidden", self.hidden),
            residual: lent.optional("residual", self.residual),
            y: lent.write("y", self.y),
            y_type: element(self.y_dtype)?,
            workspace: lent.write_within("workspace", self.workspace, workspace_bytes).cast(),
            workspace_bytes,
        })
    }

    fn bytes(call: &MlpDown, _: &Device) -> usize {
        call.workspace_bytes
    }
}

impl Fill for MorayCudaMlp {
    type Call = Mlp;

    fn fill(&self, device: &Device, lent: &mut Lent) -> Outcome<Mlp> {
        let MorayCudaMlpWeights { gate, up, down, .. } = self.weights;
        let plan = self.weights.plan(self.max_tokens, device)?;
        let workspace_bytes = plan.workspace_bytes();
        let or_null = |kept: Option<Address<u32>>| kept.unwrap_or(Address::NULL);
        Ok(Mlp {
            plan,
            weights: Weights {
                gate: gate.row_matrix(["gate.rows", "gate.scales", "gate.bias"], lent)?,
                up: up.row_matrix(["up.rows", "up.scales", "up.bias"], lent)?,
                down: down.down_matrix(["down.rows", "down.scales", "down.bias"], lent)?,
            },
            tokens: self.tokens,
            x: lent.read("x", self.x),
            x_type: element(self.x_dtype)?,
            selection: self.selection.read(lent)?,
            residual: lent.optional("residual", self.residual),
            y: lent.write("y", self.y),
            y_type: element(self.y_dtype)?,
            kept: List {
                list: or_null(lent.optional_write("kept", self.kept)),
                count: or_null(lent.optional_write("kept_count", self.kept_count)),
            },
            together: None,
            workspace: lent.write_within("workspace", self.workspace, workspace_bytes).cast(),
            workspace_bytes,
        })
    }

    fn bytes(call: &Mlp, _: &Device) -> usize {
        call.workspace_bytes
    }
}
