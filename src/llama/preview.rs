//! An output layer of which only the largest logits are computed exactly.

use super::backend::Backend;
use super::forward::{LogitRows, Model, Sequence};
use super::linear::Linear;
use super::settings::Settings;
use crate::cpu::Cpu;
use crate::error::{Error, Result, check_len};
use crate::input_sparse::{self, Workspace};
use crate::threads::RowBlocks;
use crate::w4a8::{self, ActScales, Epilogue, Format, Offset, PackedWeight, QuantizedWeight, quantize};
use std::cmp::Ordering;
use std::num::NonZeroUsize;
use std::ops::Range;

/// Rows that are quantized at a time.
const CHUNK_ROWS: usize = 1024;

/// Inputs that are held in 8 bits, one group of them: on SmolLM2-135M the 8 largest of 576 have half of all squares.
const LARGE: usize = 32;

/// Logits whose largest stands for all of them while the largest are looked for.
const GROUP: usize = 16;

/// A copy of a matrix in few bits that says which of its rows are worth reading.
///
/// ```text
/// p[n]     Σ_k∈L x[k] · w8[n, k] + Σ_k∈S x[k] · w4[n, k]     L: the 32 inputs that are typically the largest
/// y[n]     Σ_k x[k] · w[n, k] where p[n] is among the `exact` largest of the token, the lower n first where equal; p[n] elsewhere
/// ```
///
/// w8 is w rounded to 8 bits with a scale for each row, w4 to 4 bits in groups of 32, and both sums take x in int8 with a scale of their own. S are
/// the other inputs, or the share of them with the largest |x\[k\]| · ‖w\[:, k\]‖₂ of the token, the lower k first where equal. Such a copy lies by
/// input, so that the columns of the others are not read.
///
/// # Source
/// SVD-softmax (Shim et al., NeurIPS 2017) refines the largest logits of a first look at a few singular directions; here the first look
/// is at few bits of all of them, with the outliers among the inputs apart, as LLM.int8() (arXiv 2208.07339) has them, and the others chosen
/// for each token as WINA (arXiv 2505.19427) chooses them.
#[derive(Debug, Clone)]
pub struct Preview {
    /// Of all inputs, 0 for the large ones.
    copy: Copy,
    /// Of the large inputs.
    large: PackedWeight,
    /// The large inputs, increasing.
    inputs: Vec<u32>,
    exact: NonZeroUsize,
}

/// How the copy in 4 bits lies.
#[derive(Debug, Clone)]
enum Copy {
    /// By output: it is read whole.
    Whole(PackedWeight),
    /// By input: `read` columns of a token are read, by the norms of all.
    ByInput { weight: input_sparse::Weight, norms: Vec<f32>, read: usize },
}

/// What a call works in. Buffers grow to the largest call seen and are then reused.
#[derive(Debug, Clone, Default)]
pub(super) struct PreviewRoom {
    x: Vec<f32>,
    logits: Vec<f32>,
    largest: Vec<f32>,
    candidates: Vec<u32>,
    rows: Vec<Range<usize>>,
    scores: Vec<f32>,
}

impl Preview {
    /// Copies a matrix whose inputs have these typical `sizes`, f32 \[K\] of at least 0. Of the inputs that are not among the large ones, a
    /// token's look reads the share `read`, at least one; all of them with 1.
    ///
    /// # Errors
    /// [`Error::Length`] unless there are K sizes, [`Error::Value`] for one that is negative or not finite and for a share outside (0, 1],
    /// [`Error::Shape`] for a K that is no multiple of 32, [`Error::Unsupported`] for a matrix of which nothing would be spared.
    pub fn new(matrix: &Linear, sizes: &[f32], exact: NonZeroUsize, read: f32) -> Result<Self> {
        let (n, k) = (matrix.n(), matrix.k());
        check_len("sizes of the output layer's inputs", k, sizes.len())?;
        if let Some(&got) = sizes.iter().find(|size| !(size.is_finite() && **size >= 0.0)) {
            return Err(Error::Value { what: "size of an input", expected: "a finite number of at least 0", got });
        }
        if !(read > 0.0 && read <= 1.0) {
            return Err(Error::Value {
                what: "share of a preview's inputs",
                expected: "a number in (0, 1]",
                got: read,
            });
        }
        let mut inputs: Vec<u32> = (0..k as u32).collect();
        inputs.sort_by(|&a, &b| sizes[b as usize].total_cmp(&sizes[a as usize]));
        inputs.truncate(LARGE);
        inputs.sort_unstable();
        let formats = [Format::per_group(32, Offset::None), Format::w8()];
        formats[0].check(n, k)?;
        let (mut parts, mut squares) = ([Vec::new(), Vec::new()], vec![0.0f64; k]);
        let (mut rest, mut large) = (vec![0.0; CHUNK_ROWS.min(n) * k], vec![0.0; CHUNK_ROWS.min(n) * inputs.len()]);
        for first in (0..n).step_by(CHUNK_ROWS) {
            let rows = CHUNK_ROWS.min(n - first);
            let each = rest.chunks_exact_mut(k).zip(large.chunks_exact_mut(inputs.len()));
            for (row, (rest, large)) in (first..first + rows).zip(each) {
                matrix.row(row, rest)?;
                squares.iter_mut().zip(&*rest).for_each(|(sum, &w)| *sum += f64::from(w) * f64::from(w));
                let taken = inputs.iter().map(|&input| std::mem::take(&mut rest[input as usize]));
                large.iter_mut().zip(taken).for_each(|(large, taken)| *large = taken);
            }
            parts[0].push(quantize(&rest[..rows * k], rows, k, formats[0])?);
            parts[1].push(quantize(&large[..rows * inputs.len()], rows, inputs.len(), formats[1])?);
        }
        let joined = |parts: &[QuantizedWeight]| QuantizedWeight::concatenate(&parts.iter().collect::<Vec<_>>());
        let copy = if read < 1.0 {
            let norms = squares.iter().map(|sum| sum.sqrt() as f32).collect();
            let read = ((f64::from(read) * (k - inputs.len()) as f64).round() as usize).max(1);
            Copy::ByInput { weight: input_sparse::Weight::from_quantized(&joined(&parts[0])?)?, norms, read }
        } else {
            Copy::Whole(PackedWeight::pack(&joined(&parts[0])?))
        };
        let preview = Preview { copy, large: PackedWeight::pack(&joined(&parts[1])?), inputs, exact };
        let (whole, read) = (matrix.bytes(), preview.bytes_read(matrix.bytes()));
        if read >= whole {
            let expected = "an output layer of which a preview spares something";
            let got = format!("one of {whole} bytes, of which a preview of {exact} logits would read {read}");
            return Err(Error::Unsupported { what: "logits", expected, got });
        }
        Ok(preview)
    }

    /// Logits of each token that are computed exactly.
    pub fn exact(&self) -> NonZeroUsize {
        self.exact
    }

    /// Bytes that a token reads of the copy and of a matrix of `bytes` bytes, which is read in blocks of 16 rows, at most.
    pub fn bytes_read(&self, bytes: usize) -> usize {
        let n = self.large.n();
        let rows = self.exact.get().saturating_mul(RowBlocks::HEIGHT).min(n);
        let copy = match &self.copy {
            Copy::Whole(weight) => weight.bytes(),
            Copy::ByInput { weight, read, .. } => weight.bytes_read((*read as f64 / weight.k() as f64).min(1.0)),
        };
        copy + self.large.bytes() + (bytes as f64 * rows as f64 / n as f64).ceil() as usize
    }

    /// Multiplies: y\[M, N\] = x\[M, K\] · wᵀ + bias, exactly where the copy's is among the largest.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub(super) fn multiply(
        &self,
        cpu: &Cpu,
        matrix: &Linear,
        x: &[f32],
        y: &mut [f32],
        (room, workspace): (&mut PreviewRoom, &mut Workspace),
    ) -> Result<()> {
        let (n, k) = (matrix.n(), matrix.k());
        self.look(cpu, matrix.bias(), (x, k), y, (room, workspace))?;
        room.logits.resize(n.max(room.logits.len()), 0.0);
        for (x, y) in x.chunks_exact(k).zip(y.chunks_exact_mut(n)) {
            room.find_largest(y, self.exact.get());
            matrix.forward_rows(cpu, &room.rows, (x, 0.0), None, &mut room.logits[..n], workspace)?;
            room.candidates.iter().for_each(|&row| y[row as usize] = room.logits[row as usize]);
        }
        Ok(())
    }

    /// Multiplies with the copy alone.
    fn look(
        &self,
        cpu: &Cpu,
        bias: Option<&[f32]>,
        (x, k): (&[f32], usize),
        y: &mut [f32],
        (room, workspace): (&mut PreviewRoom, &mut Workspace),
    ) -> Result<()> {
        let width = self.inputs.len();
        let m = x.len() / k;
        let int8 = &mut workspace.int8;
        int8.set_scales(ActScales::Token);
        room.x.clear();
        room.x.extend(x.chunks_exact(k).flat_map(|x| self.inputs.iter().map(|&input| x[input as usize])));
        int8.quantize(cpu, &room.x, m, width)?;
        int8.check_finite()?;
        room.logits.resize(y.len().max(room.logits.len()), 0.0);
        let of_large = &mut room.logits[..y.len()];
        w4a8::linear(cpu, &self.large, int8, Epilogue { bias, residual: None }, of_large)?;
        room.x.clear();
        room.x.extend_from_slice(x);
        for x in room.x.chunks_exact_mut(k) {
            self.inputs.iter().for_each(|&input| x[input as usize] = 0.0);
        }
        let epilogue = Epilogue { bias: None, residual: Some(&*of_large) };
        match &self.copy {
            Copy::Whole(weight) => {
                int8.quantize(cpu, &room.x, m, k)?;
                int8.check_finite()?;
                w4a8::linear(cpu, weight, int8, epilogue, y)
            }
            Copy::ByInput { weight, norms, read } => {
                room.x.chunks_exact_mut(k).for_each(|x| keep_largest(x, norms, *read, &mut room.scores));
                input_sparse::linear(cpu, weight, &room.x, 0.0, epilogue, y, workspace)?;
                workspace.int8.check_finite()
            }
        }
    }
}

/// Sets all but the `count` inputs with the largest |x| · norm to 0, the lower of equal ones kept.
fn keep_largest(x: &mut [f32], norms: &[f32], count: usize, scores: &mut Vec<f32>) {
    if count >= x.len() {
        return;
    }
    let score = |(x, norm): (&f32, &f32)| x.abs() * norm;
    scores.clear();
    scores.extend(x.iter().zip(norms).map(score));
    let least = *scores.select_nth_unstable_by(count, |a, b| b.total_cmp(a)).1;
    let larger = scores[..count].iter().filter(|score| score.total_cmp(&least).is_gt()).count();
    let mut equal = count - larger;
    for (x, norm) in x.iter_mut().zip(norms) {
        let order = score((x, norm)).total_cmp(&least);
        let kept = order.is_gt() || (order.is_eq() && equal > 0);
        equal -= usize::from(kept && order.is_eq());
        if !kept {
            *x = 0.0;
        }
    }
}

impl Model<Cpu> {
    /// Measures the inputs of the output layer over a text: √ mean x² of each, f32 \[d_model\].
    ///
    /// # Errors
    /// [`Error::Shape`] for a text without tokens; otherwise as [`Model::forward`].
    pub fn output_input_sizes(&self, cpu: &Cpu, tokens: &[u32]) -> Result<Vec<f32>> {
        let d = self.config().d_model;
        let mut settings = Settings::dense(tokens.len().max(1));
        settings.max_tokens = settings.max_tokens.min(32);
        settings.max_logits = settings.max_tokens;
        let mut session = self.session(cpu, settings)?;
        let mut squares = vec![0.0f64; d];
        if tokens.is_empty() {
            return Err(Error::Shape { what: "calibration", expected: "at least 1 token", got: 0 });
        }
        for tokens in tokens.chunks(session.settings().max_tokens) {
            self.forward(cpu, &mut session, &[Sequence { slot: 0, tokens }], LogitRows::All)?;
            let inputs = cpu.read(&session.normed, tokens.len() * d, &mut session.host)?;
            for inputs in inputs.chunks_exact(d) {
                squares.iter_mut().zip(inputs).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
            }
        }
        Ok(squares.iter().map(|sum| (sum / tokens.len() as f64).sqrt() as f32).collect())
    }

    /// Adds a copy in few bits to the output layer, see [`Linear::with_preview`].
    ///
    /// # Errors
    /// As [`Linear::with_preview`].
    pub fn with_preview(self, sizes: &[f32], exact: NonZeroUsize, read: f32) -> Result<Self> {
        self.map_lm_head(|head| head.with_preview(sizes, exact, read))
    }
}

impl PreviewRoom {
    /// Lists the `count` largest of `logits`, the lower first where equal, as increasing candidates and as rows.
    fn find_largest(&mut self, logits: &[f32], count: usize) {
        let PreviewRoom { largest, candidates, rows, .. } = self;
        let count = count.min(logits.len());
        // as many groups as are looked for each have one of at least this size, so that the largest of all do
        largest.clear();
        largest.extend(logits.chunks(GROUP).map(|group| group.iter().copied().fold(f32::NEG_INFINITY, f32::max)));
        let least = match count < largest.len() {
            true => *largest.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a)).1,
            false => f32::NEG_INFINITY,
        };
        candidates.clear();
        candidates.extend((0..logits.len() as u32).filter(|&row| logits[row as usize] >= least));
        if count < candidates.len() {
            let larger =
                |a: &u32, b: &u32| -> Ordering { logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)) };
            candidates.select_nth_unstable_by(count - 1, larger);
            candidates.truncate(count);
        }
        candidates.sort_unstable();
        rows.clear();
        rows.extend(candidates.iter().map(|&row| row as usize..row as usize + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DenseType;
    use crate::cpu::Isa;
    use crate::llama::DenseWeight;
    use crate::w4a8::{Activations, linear_reference};

    const N: usize = 333;
    const K: usize = 256;

    fn numbers(seed: u32, count: usize) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    /// Inputs k with 5 k mod K below 32 are the large ones.
    fn is_large(k: usize) -> bool {
        5 * k % K < LARGE
    }

    fn sizes() -> Vec<f32> {
        (0..K).map(|k| if is_large(k) { 10.0 + k as f32 } else { 1.0 }).collect()
    }

    /// The inputs that a look in 4 bits reads, by a sort: the large ones are 0.
    fn read_of(w: &[f32], x: &[f32], count: usize) -> Vec<f32> {
        let square = |k: usize| w.iter().skip(k).step_by(K).map(|&w| f64::from(w) * f64::from(w)).sum::<f64>();
        let norms: Vec<f32> = (0..K).map(|k| square(k).sqrt() as f32).collect();
        let mut read = vec![0.0; x.len()];
        for (x, read) in x.chunks(K).zip(read.chunks_mut(K)) {
            let mut order: Vec<usize> = (0..K).filter(|&k| !is_large(k)).collect();
            order.sort_by(|&a, &b| (x[b].abs() * norms[b]).total_cmp(&(x[a].abs() * norms[a])).then(a.cmp(&b)));
            order[..count].iter().for_each(|&k| read[k] = x[k]);
        }
        read
    }

    /// Σ_k∈L x · w8 + Σ_k∈S x · w4 + bias, from plain codes, `count` inputs in S.
    fn looked_at(w: &[f32], x: &[f32], bias: &[f32], count: usize) -> Vec<f32> {
        let part = |values: &[f32], large: bool| -> Vec<f32> {
            let kept = |(i, &value): (usize, &f32)| match (is_large(i % K) == large, large) {
                (true, _) => Some(value),
                (false, true) => None,
                (false, false) => Some(0.0),
            };
            values.iter().enumerate().filter_map(kept).collect()
        };
        let (mut y, read) = (vec![0.0; x.len() / K * N], read_of(w, x, count));
        for (large, k, format) in [(true, LARGE, Format::w8()), (false, K, Format::per_group(32, Offset::None))] {
            let weight = quantize(&part(w, large), N, k, format).unwrap();
            let mut int8 = Activations::default();
            let of = if large { x } else { &read };
            int8.quantize(&Cpu::detect(), &part(of, large), x.len() / K, k).unwrap();
            let added = y.clone();
            let epilogue = if large {
                Epilogue { bias: Some(bias), residual: None }
            } else {
                Epilogue { bias: None, residual: Some(&added[..]) }
            };
            linear_reference(&weight, &int8, epilogue, &mut y).unwrap();
        }
        y
    }

    /// The places of the largest by a sort.
    fn sorted(logits: &[f32], count: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        order.truncate(count);
        order.sort_unstable();
        order
    }

    fn matrices(w: &[f32], bias: &[f32]) -> Vec<Linear> {
        let dense = |dtype| Linear::from(DenseWeight::from_f32(w, N, K, dtype).unwrap());
        let w8 = Linear::from(PackedWeight::pack(&quantize(w, N, K, Format::w8()).unwrap()));
        [dense(DenseType::F32), dense(DenseType::F16), w8].map(|matrix| matrix.with_bias(bias.to_vec()).unwrap()).into()
    }

    #[test]
    fn logits_match_the_definition_on_every_instruction_set_alone_and_together() {
        let (w, bias) = (numbers(1, N * K), numbers(2, N));
        let mut x: Vec<f32> = numbers(3, 5 * K).iter().zip(sizes().iter().cycle()).map(|(x, size)| x * size).collect();
        x[2 * K..3 * K].iter_mut().for_each(|x| *x = if *x < 0.0 { -0.0 } else { 0.0 });
        for matrix in matrices(&w, &bias) {
            // what is rounded again is what the matrix holds
            let held: Vec<f32> = (0..N)
                .flat_map(|n| {
                    let mut row = vec![0.0; K];
                    matrix.row(n, &mut row).unwrap();
                    row
                })
                .collect();
            for (exact, share, count) in [
                (1, 1.0, K - LARGE),
                (2, 1.0, K - LARGE),
                (3, 0.999, K - LARGE),
                (1, 0.7, 157),
                (2, 0.3, 67),
                (1, 1e-9, 1),
            ] {
                let looked = looked_at(&held, &x, &bias, count);
                let matrix = matrix.clone().with_preview(&sizes(), NonZeroUsize::new(exact).unwrap(), share).unwrap();
                let mut expected = looked.clone();
                for (x, y) in x.chunks(K).zip(expected.chunks_mut(N)) {
                    let mut whole = vec![0.0; N];
                    matrix.forward(&Cpu::detect(), (x, 0.0), None, &mut whole, &mut Workspace::default()).unwrap();
                    sorted(y, exact).into_iter().for_each(|n| y[n as usize] = whole[n as usize]);
                }
                for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                    for (threads, tokens) in [(1, 5), (2, 1), (3, 2)] {
                        let (cpu, mut found) = (Cpu::new(threads, isa).unwrap(), vec![f32::NAN; expected.len()]);
                        let (mut room, mut workspace) = (PreviewRoom::default(), Workspace::default());
                        for (x, y) in x.chunks(tokens * K).zip(found.chunks_mut(tokens * N)) {
                            let preview = matrix.preview().unwrap();
                            preview.multiply(&cpu, &matrix, x, y, (&mut room, &mut workspace)).unwrap();
                        }
                        assert_eq!(
                            found, expected,
                            "{exact} exact, {share} read, {isa:?}, {threads} threads, {tokens} tokens"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_largest_match_a_sort() {
        let mut room = PreviewRoom::default();
        for (seed, len) in [(1, 1), (2, 15), (3, 17), (4, 1000)] {
            // many are equal
            let logits: Vec<f32> = numbers(seed, len).iter().map(|x| (x * 20.0).round()).collect();
            for count in [1, 2, 16, 63, 999, 2000] {
                room.find_largest(&logits, count);
                assert_eq!(room.candidates, sorted(&logits, count), "{count} of {len}");
            }
        }
    }

    #[test]
    fn inputs_are_kept_as_a_sort_keeps_them() {
        for (seed, len) in [(1, 1), (2, 17), (3, 544)] {
            // many are equal
            let (x, norms): (Vec<f32>, Vec<f32>) =
                numbers(seed, len).iter().map(|x| ((x * 4.0).round(), 1.0 + (x * 2.0).round().abs())).unzip();
            for count in [1, 2, 16, 381, 543, 600] {
                let mut order: Vec<usize> = (0..len).collect();
                order.sort_by(|&a, &b| (x[b].abs() * norms[b]).total_cmp(&(x[a].abs() * norms[a])).then(a.cmp(&b)));
                let mut expected = vec![0.0; len];
                order.iter().take(count).for_each(|&k| expected[k] = x[k]);
                let mut found = x.clone();
                keep_largest(&mut found, &norms, count, &mut Vec::new());
                assert_eq!(found, expected, "{count} of {len}");
            }
        }
    }

    #[test]
    fn bytes_fall_with_the_inputs_that_are_read() {
        let matrix = &matrices(&numbers(1, N * K), &numbers(2, N))[0];
        let bytes = |share| {
            matrix.clone().with_preview(&sizes(), NonZeroUsize::MIN, share).unwrap().preview().unwrap().bytes_read(0)
        };
        // 4 bits a code; scales are read whole
        assert_eq!(bytes(0.75) - bytes(0.5), N.next_multiple_of(32) * (168 - 112) / 2);
    }

    #[test]
    fn inputs_that_are_not_finite_are_refused_however_many_are_read() {
        let matrix = &matrices(&numbers(1, N * K), &numbers(2, N))[1];
        for share in [1.0, 0.5] {
            let matrix = matrix.clone().with_preview(&sizes(), NonZeroUsize::MIN, share).unwrap();
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
                for at in [0, 1] {
                    let (mut x, mut y) = (numbers(3, K), vec![0.0; N]);
                    x[at] = bad;
                    let rooms = (&mut PreviewRoom::default(), &mut Workspace::default());
                    let refused = matrix.preview().unwrap().multiply(&Cpu::detect(), &matrix, &x, &mut y, rooms);
                    assert!(refused.is_err(), "{share} {bad} {at}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_previewed_is_refused() {
        let refusal = |matrix: Linear, sizes: &[f32], exact| {
            matrix.with_preview(sizes, NonZeroUsize::new(exact).unwrap(), 1.0).unwrap_err().to_string()
        };
        for share in [0.0, -0.5, 1.5, f32::NAN] {
            let matrix = matrices(&numbers(1, N * K), &numbers(2, N)).remove(0);
            let refused = matrix.with_preview(&sizes(), NonZeroUsize::MIN, share).unwrap_err().to_string();
            assert!(refused.contains("share of a preview's inputs") && refused.contains("(0, 1]"), "{refused}");
        }
        let w = numbers(1, N * K);
        let f16 = || Linear::from(DenseWeight::from_f32(&w, N, K, DenseType::F16).unwrap());
        let four_bit = Linear::from(PackedWeight::pack(&quantize(&w, N, K, Format::per_channel()).unwrap()));
        let odd = Linear::from(DenseWeight::from_f32(&w[..N * 80], N, 80, DenseType::F16).unwrap());
        let by_input = crate::input_sparse::Weight::from_f32(&w, N, K, DenseType::F16).unwrap();
        for (found, part) in [
            (refusal(f16(), &sizes()[1..], 1), "sizes of the output layer's inputs"),
            (refusal(f16(), &[f32::NAN; K], 1), "a finite number of at least 0"),
            (refusal(f16(), &sizes(), N), "spares something"),
            (refusal(four_bit, &sizes(), 1), "spares something"),
            (refusal(odd, &[1.0; 80], 1), "multiple"),
            (refusal(by_input.into(), &sizes(), 1), "by output"),
        ] {
            assert!(found.contains(part), "{found}");
        }
    }
}
