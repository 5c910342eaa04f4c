//! A whole call: its parts, one after the other.

use super::activations::takes_codes;
use super::whole::Whole;
use super::{
    Activations, Down, FillOperand, GateUp, List, MaskValues, Matrix, Maxima, Neurons, Output, Plan, QuantizeRows,
    Score, Sections, SelectMask, Selection, Union, Weights,
};
use crate::device::{Address, Buffer, Device, ElementKind, Enqueue, Queue, product};
use crate::error::Result;
use crate::sparse_mlp::cuda::variant::is_tiled;
use crate::sparse_mlp::cuda::{Keep, mask_words};
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
    /// Of x.
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
    /// u32 \[2\], zeros before the first call and left so: with them a call of one token whose neurons are known before it is one launch, whose
    /// blocks wait for each other, where the device has such. None: it is two. A launch that does not run to its end ends its context and them.
    pub together: Option<Address<u32>>,
    /// Scratch, aligned to 16 bytes; see [`Plan::sections`] for what it holds after the call.
    pub workspace: Address<f32>,
    /// Bytes at `workspace`: at least [`Plan::workspace_bytes`].
    pub workspace_bytes: usize,
}

/// What is done with each part.
pub(super) type Visit<'a> = &'a mut dyn FnMut(&dyn Enqueue) -> Result<()>;

impl Mlp {
    /// Shows the parts in their order.
    fn each_part(&self, visit: Visit<'_>) -> Result<()> {
        let sections = self.plan.sections(self.workspace);
        let x = self.prepare_inputs(&sections, visit)?;
        match self.score() {
            Some((score, keep)) if score.on != ScoreOn::Input => {
                let (neurons, maxima) = self.select_by_value(&sections, x, score, keep, visit)?;
                self.down(&sections, neurons, maxima, visit)
            }
            _ => {
                let neurons = self.known_neurons(visit)?;
                self.gather_and_down(&sections, x, neurons, visit)
            }
        }
    }

    /// Zeroes inputs that score too low if the selection is on inputs, and brings them into the kernels' form.
    fn prepare_inputs(&self, s: &Sections, visit: Visit<'_>) -> Result<Activations> {
        let by_input = self.score().filter(|(score, _)| score.on == ScoreOn::Input);
        let select = |x| {
            let d = self.plan.shape().d_model;
            by_input.map(|(score, keep)| self.select(s, (x, d, d), score, keep))
        };
        prepare_inputs(&self.plan, s, self.tokens, (self.x, self.x_type), &select, visit)
    }

    /// The neurons of a call that does not choose them by products; makes the list of masks.
    fn known_neurons(&self, visit: Visit<'_>) -> Result<Neurons> {
        let all = Neurons::all(self.plan.shape().d_ff);
        Ok(match self.selection {
            Selection::List(list) => Neurons { list: Some(list), ..all },
            Selection::Masks(masks) => {
                visit(&self.union_of(masks))?;
                Neurons { list: Some(self.kept), masks: Some(masks), ..all }
            }
            Selection::Union { list, masks } => Neurons { list: Some(list), masks: Some(masks), ..all },
            Selection::All | Selection::Threshold { .. } | Selection::TopK { .. } => all,
        })
    }

    /// Rows of gate, up and down of neurons that are known.
    fn gather_and_down(&self, s: &Sections, x: Activations, neurons: Neurons, visit: Visit<'_>) -> Result<()> {
        let Weights { gate, up, .. } = self.weights;
        let gather = self.gather(s, x, neurons, Some(gate), Some((up, s.hidden)));
        if let (1, Some(arrived)) = (self.tokens, self.together) {
            let down = self.down_of(s, neurons, gather.maxima, Activations::Floats(s.hidden.cast(), ElementKind::F32));
            return visit(&Whole { gate_up: gather, down, arrived });
        }
        visit(&gather)?;
        self.down(s, neurons, gather.maxima, visit)
    }

    /// Rows of every gate (and up, for a score on the product), then the selection, then the rest of what is kept. Returns the positions of
    /// the products, and their maxima where down takes them.
    fn select_by_value(
        &self,
        s: &Sections,
        x: Activations,
        score: Score,
        keep: Keep,
        visit: Visit<'_>,
    ) -> Result<(Neurons, Option<Maxima>)> {
        let (Weights { gate, up, .. }, d_ff, stride) = (self.weights, self.plan.shape().d_ff, self.plan.stride());
        let all = Neurons::all(d_ff);
        let kept = Neurons { list: Some(self.kept), masks: Some(s.masks), limit: d_ff };
        if score.on == ScoreOn::Gate {
            visit(&self.gather(s, x, all, Some(gate), None))?;
            visit(&self.select(s, (s.gate, d_ff, stride), score, keep))?;
            visit(&self.union_of(s.masks))?;
            let gather = self.gather(s, x, kept, None, Some((up, s.hidden)));
            visit(&gather)?;
            Ok((kept, gather.maxima))
        } else {
            visit(&self.gather(s, x, all, Some(gate), Some((up, s.products))))?;
            visit(&self.select(s, (s.products, d_ff, stride), score, keep))?;
            visit(&self.union_of(s.masks))?;
            let maxima = self.plan.maxima(s, self.tokens, MaskValues::maxima_of(d_ff));
            visit(&MaskValues {
                values: s.products.cast(),
                values_type: ElementKind::F32,
                neurons: kept,
                out: s.hidden,
                maxima,
                stride,
                tokens: self.tokens,
            })?;
            Ok((kept, maxima))
        }
    }

    /// Rows of down.
    fn down(&self, s: &Sections, neurons: Neurons, maxima: Option<Maxima>, visit: Visit<'_>) -> Result<()> {
        let (format, d_ff, stride, tokens) =
            (self.plan.format(), self.plan.shape().d_ff, self.plan.stride(), self.tokens);
        let hidden = if is_tiled(tokens) {
            let (to, count) = (s.hidden_operand, neurons.list.map(|list| list.count));
            visit(&FillOperand { format, x: s.hidden, count, to, n: d_ff, stride, tokens })?;
            Activations::Operand(to)
        } else {
            Activations::Floats(s.hidden.cast(), ElementKind::F32)
        };
        visit(&self.down_of(s, neurons, maxima, hidden))
    }

    fn down_of(&self, s: &Sections, neurons: Neurons, maxima: Option<Maxima>, hidden: Activations) -> Down {
        let (format, shape, stride, tokens) = (self.plan.format(), self.plan.shape(), self.plan.stride(), self.tokens);
        let matrix = self.weights.down;
        Down {
            format,
            shape,
            matrix,
            neurons,
            tokens,
            hidden,
            maxima,
            stride,
            splits: self.plan.splits(tokens),
            partial: s.partial,
            arrivals: self.plan.arrivals(s, tokens),
            output: Output { bias: matrix.bias, residual: self.residual, y: self.y, y_type: self.y_type },
        }
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
            maxima: up.and_then(|_| self.plan.maxima(s, self.tokens, self.plan.gate_blocks(self.tokens))),
            arrivals: self.plan.arrivals(s, self.tokens),
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

/// Brings inputs into the kernels' form, after `select`, if there is one, has said which of them count.
pub(super) fn prepare_inputs(
    plan: &Plan,
    s: &Sections,
    tokens: usize,
    (x, x_type): (Address, ElementKind),
    select: &dyn Fn(Address<f32>) -> Option<SelectMask>,
    visit: Visit<'_>,
) -> Result<Activations> {
    let (d, format) = (plan.shape().d_model, plan.format());
    let values = |values, values_type, masks| MaskValues {
        values,
        values_type,
        neurons: Neurons { masks, ..Neurons::all(d) },
        out: s.x,
        maxima: None,
        stride: d,
        tokens,
    };
    let takes_floats = !is_tiled(tokens) && !takes_codes(format, tokens);
    if takes_floats && select(x.cast()).is_none() {
        return Ok(Activations::Floats(x, x_type));
    }
    let mut floats = x.cast();
    if x_type != ElementKind::F32 {
        visit(&values(x, x_type, None))?;
        floats = s.x;
    }
    if let Some(selection) = select(floats) {
        visit(&selection)?;
        visit(&values(floats.cast(), ElementKind::F32, Some(s.masks)))?;
        floats = s.x;
    }
    if takes_floats {
        return Ok(Activations::Floats(floats.cast(), ElementKind::F32));
    }
    if is_tiled(tokens) {
        visit(&FillOperand { format, x: floats, count: None, to: s.x_operand, n: d, stride: d, tokens })?;
        return Ok(Activations::Operand(s.x_operand));
    }
    visit(&QuantizeRows { x: floats, codes: s.x_codes, n: d, stride: d, tokens })?;
    Ok(Activations::Codes(s.x_codes))
}

impl Enqueue for Mlp {
    fn check_sizes(&self, device: &Device) -> Result<()> {
        self.plan.check_call(self.tokens, self.workspace_bytes)?;
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
