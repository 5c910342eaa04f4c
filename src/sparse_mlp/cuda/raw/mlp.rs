//! A whole call: its parts, one after the other.

use super::{
    Activations, Combine, Down, FillOperand, GateUp, List, MaskValues, Matrix, Neurons, Plan, QuantizeRows, Score,
    Sections, SelectMask, Selection, Union, Weights,
};
use crate::device::{Address, Buffer, Device, ElementKind, Enqueue, Queue, product};
use crate::error::{Error, Result};
use crate::sparse_mlp::cuda::variant::is_tiled;
use crate::sparse_mlp::cuda::{Keep, RowFormat, mask_words};
use crate::sparse_mlp::{ScoreOn, Shape};

/// y = down(act(gate·x) ⊙ (up·x)) over the selected neurons of each token (+ residual): [`crate::sparse_mlp::cuda::forward`] by
/// addresses.
#[derive(Debug, Clone, Copy)]
pub struct Mlp {
    /// Sizes, formats and how the call is cut.
    pub plan: Plan,
    /// The rows of every neuron.
    pub weights: Weights,
    /// Tokens, at most the plan's.
    pub tokens: usize,
    /// \[tokens, d_model\], already normalised, aligned to 16 bytes.
    pub x: Address,
    /// Of x; f16 and bf16 are widened first.
    pub x_type: ElementKind,
    /// Which neurons.
    pub selection: Selection,
    /// \[tokens, d_model\] of y's type.
    pub residual: Option<Address>,
    /// \[tokens, d_model\].
    pub y: Address,
    /// Of y and residual.
    pub y_type: ElementKind,
    /// Where the neurons that any token keeps go, where the call makes the list itself: after masks and scores on the gate or the
    /// product. Not used otherwise.
    pub kept: List,
    /// Scratch, aligned to 16 bytes; see [`Plan::sections`] for what it holds after the call.
    pub workspace: Address<f32>,
    /// Bytes at `workspace`: at least [`Plan::workspace_bytes`].
    pub workspace_bytes: usize,
}

/// What is done with each part.
type Visit<'a> = &'a mut dyn FnMut(&dyn Enqueue) -> Result<()>;

impl Mlp {
    /// Shows the parts in their order.
    fn each_part(&self, visit: Visit<'_>) -> Result<()> {
        let sections = self.plan.sections(self.workspace);
        let x = self.prepare_inputs(&sections, visit)?;
        let neurons = self.compute_hidden(&sections, x, visit)?;
        self.down(&sections, neurons, visit)
    }

    /// Widens inputs, zeroes those that score too low if the selection is on inputs, and brings them into the kernels' form.
    fn prepare_inputs(&self, s: &Sections, visit: Visit<'_>) -> Result<Activations> {
        let (d, tokens) = (self.plan.shape().d_model, self.tokens);
        let values = |values, values_type, masks| MaskValues {
            values,
            values_type,
            neurons: Neurons { masks, ..Neurons::all(d) },
            out: s.x,
            stride: d,
            tokens,
        };
        let mut x = self.x.cast();
        if self.x_type != ElementKind::F32 {
            visit(&values(self.x, self.x_type, None))?;
            x = s.x;
        }
        if let Some((score, keep)) = self.score().filter(|(score, _)| score.on == ScoreOn::Input) {
            visit(&self.select(s, (x, d, d), score, keep))?;
            visit(&values(x.cast(), ElementKind::F32, Some(s.masks)))?;
            x = s.x;
        }
        match (is_tiled(tokens), self.plan.format()) {
            (true, format) => {
                visit(&FillOperand { format, x, count: None, to: s.x_operand, n: d, stride: d, tokens })?;
                Ok(Activations::Operand(s.x_operand))
            }
            (false, RowFormat::FourBit) => {
                visit(&QuantizeRows { x, count: None, codes: s.x_codes, n: d, stride: d, tokens })?;
                Ok(Activations::Codes(s.x_codes))
            }
            (false, _) => Ok(Activations::Floats(x)),
        }
    }

    /// Fills the gate and the products and returns the positions of the products.
    fn compute_hidden(&self, s: &Sections, x: Activations, visit: Visit<'_>) -> Result<Neurons> {
        let all = Neurons::all(self.plan.shape().d_ff);
        let neurons = match self.selection {
            Selection::List(list) => Neurons { list: Some(list), ..all },
            Selection::Masks(masks) => {
                visit(&self.union_of(masks))?;
                Neurons { list: Some(self.kept), masks: Some(masks), ..all }
            }
            Selection::Union { list, masks } => Neurons { list: Some(list), masks: Some(masks), ..all },
            Selection::All | Selection::Threshold { .. } | Selection::TopK { .. } => match self.score() {
                Some((score, keep)) if score.on != ScoreOn::Input => {
                    return self.select_by_value(s, x, score, keep, visit);
                }
                _ => all,
            },
        };
        let Weights { gate, up, .. } = self.weights;
        visit(&self.gather(s, x, neurons, Some(gate), Some((up, s.hidden))))?;
        Ok(neurons)
    }

    /// Rows of every gate (and up, for a score on the product), then the selection, then the rest of what is kept.
    fn select_by_value(
        &self,
        s: &Sections,
        x: Activations,
        score: Score,
        keep: Keep,
        visit: Visit<'_>,
    ) -> Result<Neurons> {
        let (Weights { gate, up, .. }, d_ff, stride) = (self.weights, self.plan.shape().d_ff, self.plan.stride());
        let all = Neurons::all(d_ff);
        let kept = Neurons { list: Some(self.kept), masks: Some(s.masks), limit: d_ff };
        if score.on == ScoreOn::Gate {
            visit(&self.gather(s, x, all, Some(gate), None))?;
            visit(&self.select(s, (s.gate, d_ff, stride), score, keep))?;
            visit(&self.union_of(s.masks))?;
            visit(&self.gather(s, x, kept, None, Some((up, s.hidden))))?;
        } else {
            visit(&self.gather(s, x, all, Some(gate), Some((up, s.products))))?;
            visit(&self.select(s, (s.products, d_ff, stride), score, keep))?;
            visit(&self.union_of(s.masks))?;
            visit(&MaskValues {
                values: s.products.cast(),
                values_type: ElementKind::F32,
                neurons: kept,
                out: s.hidden,
                stride,
                tokens: self.tokens,
            })?;
        }
        Ok(kept)
    }

    /// Rows of down in parts, and their sum.
    fn down(&self, s: &Sections, neurons: Neurons, visit: Visit<'_>) -> Result<()> {
        let (format, shape, stride, tokens) = (self.plan.format(), self.plan.shape(), self.plan.stride(), self.tokens);
        let (count, n) = (neurons.list.map(|list| list.count), shape.d_ff);
        let hidden = match (is_tiled(tokens), format) {
            (true, format) => {
                let to = s.hidden_operand;
                visit(&FillOperand { format, x: s.hidden, count, to, n, stride, tokens })?;
                Activations::Operand(to)
            }
            (false, RowFormat::FourBit) => {
                visit(&QuantizeRows { x: s.hidden, count, codes: s.hidden_codes, n, stride, tokens })?;
                Activations::Codes(s.hidden_codes)
            }
            (false, _) => Activations::Floats(s.hidden),
        };
        let act_scale = match (hidden, format) {
            (Activations::Codes(codes), _) => Some(codes.scale),
            (Activations::Operand(operand), RowFormat::F16 | RowFormat::FourBit) => Some(operand.scale),
            _ => None,
        };
        let (splits, matrix) = (self.plan.splits(tokens), self.weights.down);
        visit(&Down { format, shape, matrix, neurons, tokens, hidden, stride, splits, partial: s.partial })?;
        visit(&Combine {
            partial: s.partial,
            splits,
            act_scale,
            bias: matrix.bias,
            residual: self.residual,
            y: self.y,
            y_type: self.y_type,
            tokens,
            d_model: shape.d_model,
        })
    }

    fn gather(
        &self,
        s: &Sections,
        x: Activations,
        neurons: Neurons,
        gate: Option<Matrix>,
        up: Option<(Matrix, Address<f32>)>,
    ) -> GateUp {
        GateUp {
            format: self.plan.format(),
            shape: self.plan.shape(),
            gate,
            up: up.map(|(up, _)| up),
            neurons,
            tokens: self.tokens,
            x,
            gate_values: s.gate,
            hidden: up.map(|(_, hidden)| hidden),
            stride: self.plan.stride(),
        }
    }

    fn select(&self, s: &Sections, values: (Address<f32>, usize, usize), score: Score, keep: Keep) -> SelectMask {
        let ((values, n, stride), channel_scale) = (values, score.channel_scale);
        SelectMask { values, n, stride, tokens: self.tokens, channel_scale, keep, masks: s.masks }
    }

    fn union_of(&self, masks: Address<u32>) -> Union {
        Union { masks, tokens: self.tokens, limit: self.plan.shape().d_ff, list: self.kept }
    }

    fn score(&self) -> Option<(Score, Keep)> {
        match self.selection {
            Selection::Threshold { score, threshold } => Some((score, Keep::Above(threshold))),
            Selection::TopK { score, k } => Some((score, Keep::Top(k))),
            _ => None,
        }
    }
}

impl Enqueue for Mlp {
    fn check_sizes(&self, device: &Device) -> Result<()> {
        if self.tokens > self.plan.max_tokens() {
            return Err(Error::Shape { what: "tokens", expected: "at most the plan's max_tokens", got: self.tokens });
        }
        let needed = self.plan.workspace_bytes();
        if self.workspace_bytes < needed {
            return Err(Error::Length { what: "workspace", expected: needed / 4, got: self.workspace_bytes / 4 });
        }
        self.each_part(&mut |part| part.check_sizes(device))
    }

    fn name_buffers(&self, device: &Device, show: &mut dyn FnMut(Buffer)) {
        if self.tokens == 0 {
            return;
        }
        let Shape { d_model, d_ff, .. } = self.plan.shape();
        let elems = product([self.tokens, d_model]);
        show(Buffer::read("x", self.x, elems).of_bytes(self.x_type.bytes()).aligned(16));
        show(Buffer::write("workspace", self.workspace, self.plan.workspace_bytes() / 4).aligned(16));
        if let Selection::Masks(masks) | Selection::Union { masks, .. } = self.selection {
            show(Buffer::read("selection masks", masks, product([self.tokens, mask_words(d_ff)])));
        }
        // every part has been checked, and to show buffers does not fail
        let shown = self.each_part(&mut |part| {
            part.name_buffers(device, show);
            Ok(())
        });
        debug_assert!(shown.is_ok());
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        match self.tokens {
            0 => Ok(()),
            _ => self.each_part(&mut |part| part.enqueue(queue)),
        }
    }
}
