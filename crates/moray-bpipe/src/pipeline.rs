//! What a schedule runs over: the stages' costs, the micro-batches and the cluster.

use crate::cluster::{Cluster, MAX_DURATION_NS};
use crate::error::{Error, depth};
use serde::Serialize;

/// Cost and memory of one stage for one micro-batch: the forward node, the backward node's two halves (gradient of the
/// input, gradient of the weights), and what the forward leaves for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StageCost {
    /// Forward time in ns.
    pub forward_ns: u64,
    /// Time of the input's gradient in ns.
    pub input_grad_ns: u64,
    /// Time of the weights' gradient in ns.
    pub weight_grad_ns: u64,
    /// Activations kept from forward to backward in bytes.
    pub activation_bytes: u64,
    /// Weights, gradients and optimizer state in bytes.
    pub static_bytes: u64,
}

impl StageCost {
    /// The whole backward time in ns.
    pub fn backward_ns(&self) -> u64 {
        self.input_grad_ns + self.weight_grad_ns
    }

    /// The `index`-th of `parts` equal parts; the parts sum to the whole.
    fn part(&self, index: u64, parts: u64) -> Self {
        let cut = |whole: u64| (whole + index) / parts;
        Self {
            forward_ns: cut(self.forward_ns),
            input_grad_ns: cut(self.input_grad_ns),
            weight_grad_ns: cut(self.weight_grad_ns),
            activation_bytes: cut(self.activation_bytes),
            static_bytes: cut(self.static_bytes),
        }
    }

    fn plus(&self, other: &Self) -> Self {
        Self {
            forward_ns: self.forward_ns + other.forward_ns,
            input_grad_ns: self.input_grad_ns + other.input_grad_ns,
            weight_grad_ns: self.weight_grad_ns + other.weight_grad_ns,
            activation_bytes: self.activation_bytes + other.activation_bytes,
            static_bytes: self.static_bytes + other.static_bytes,
        }
    }
}

/// How a schedule cuts the model into virtual stages and lays them on the devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Virtual stage v on device v mod p.
    Loop,
    /// Down the devices and up again: the first and the last virtual stage share device 0.
    V,
}

impl Layout {
    /// Finds the virtual stage of a device's chunk.
    pub fn virtual_stage(self, stages: u32, device: u32, chunk: u32) -> u32 {
        match self {
            Layout::V if chunk % 2 == 1 => (chunk + 1) * stages - 1 - device,
            _ => chunk * stages + device,
        }
    }

    /// Finds the device of a virtual stage.
    pub fn device(self, stages: u32, virtual_stage: u32) -> u32 {
        match (self, virtual_stage / stages % 2) {
            (Layout::V, 1) => stages - 1 - virtual_stage % stages,
            _ => virtual_stage % stages,
        }
    }
}

/// A pipeline to simulate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pipeline {
    /// Each stage's share of the layers.
    pub stages: Vec<StageCost>,
    /// What the embedding adds to the stage that holds it.
    pub embedding: StageCost,
    /// What the head and the loss add to the stage that holds them.
    pub head: StageCost,
    /// Micro-batches per iteration, m.
    pub micro_batches: u32,
    /// Bytes that cross between neighbours per micro-batch, either way.
    pub boundary_bytes: u64,
    /// Nodes and links.
    pub cluster: Cluster,
}

impl Pipeline {
    /// Describes equal stages with free links, no embedding and no head.
    pub fn uniform(stages: u32, micro_batches: u32, cost: StageCost) -> Self {
        Self {
            stages: vec![cost; stages as usize],
            embedding: StageCost::default(),
            head: StageCost::default(),
            micro_batches,
            boundary_bytes: 0,
            cluster: Cluster::FREE,
        }
    }

    /// Pipeline depth p.
    pub fn depth(&self) -> u32 {
        self.stages.len() as u32
    }

    /// Checks what every schedule needs: p ≥ 2, m ≥ 1, times above zero and small enough to add up.
    ///
    /// # Errors
    /// [`Error::TooFewStages`] and [`Error::OutOfRange`].
    pub fn check(&self) -> Result<(), Error> {
        depth(u32::try_from(self.stages.len()).unwrap_or(u32::MAX))?;
        if self.micro_batches == 0 {
            return Err(Error::OutOfRange { what: "micro-batches".into(), expected: "at least 1", got: 0.0 });
        }
        self.cluster.check()?;
        for (stage, cost) in self.stages.iter().enumerate() {
            for (name, time) in [("forward", cost.forward_ns), ("backward", cost.backward_ns())] {
                if time == 0 || time > MAX_DURATION_NS {
                    let what = format!("{name} time of stage {stage} in ns");
                    return Err(Error::OutOfRange { what, expected: "1 to 1e15", got: time as f64 });
                }
            }
        }
        for (name, extra) in [("embedding", &self.embedding), ("head", &self.head)] {
            let longest = extra.forward_ns.max(extra.backward_ns());
            if longest > MAX_DURATION_NS {
                let what = format!("{name} time in ns");
                return Err(Error::OutOfRange { what, expected: "at most 1e15", got: longest as f64 });
            }
        }
        Ok(())
    }

    /// Computes the cost of a device's chunk when every stage is cut into `chunks`: the embedding is on the first
    /// virtual stage, the head on the last.
    pub fn chunk_cost(&self, layout: Layout, chunks: u32, device: u32, chunk: u32) -> StageCost {
        let virtual_stage = layout.virtual_stage(self.depth(), device, chunk);
        let mut cost = self.stages[device as usize].part(u64::from(chunk), u64::from(chunks));
        if virtual_stage == 0 {
            cost = cost.plus(&self.embedding);
        }
        if virtual_stage + 1 == self.depth() * chunks {
            cost = cost.plus(&self.head);
        }
        cost
    }

    /// Computes the time a boundary tensor takes from one device to another, in ns.
    pub fn boundary_ns(&self, from: u32, to: u32) -> u64 {
        self.cluster.link(self.depth(), from, to).map_or(0, |link| link.duration_ns(self.boundary_bytes))
    }

    /// Bounds every schedule's makespan from below, in ns. A device cannot start before the first micro-batch reaches
    /// it, does all its work one at a time, and what it did must still travel back to the first virtual stage, unless
    /// its last piece of work may be a weight gradient (`split_backward`), which nothing waits for. Nor can one
    /// micro-batch go down and back faster than its path.
    pub fn lower_bound_ns(&self, layout: Layout, chunks: u32, split_backward: bool) -> u64 {
        let p = self.depth();
        let last = p * chunks - 1;
        let device = |vs: u32| layout.device(p, vs);
        let cost = |vs: u32| self.chunk_cost(layout, chunks, device(vs), vs / p);
        let hop = |vs: u32| self.boundary_ns(device(vs), device(vs + 1));
        let mut down = vec![0_u64; last as usize + 1];
        let mut up = down.clone();
        for vs in 0..last {
            let (this, next) = (vs as usize, vs as usize + 1);
            down[next] = down[this] + cost(vs).forward_ns + hop(vs);
            let back = if split_backward { cost(vs).input_grad_ns } else { cost(vs).backward_ns() };
            up[next] = up[this] + back + hop(vs);
        }
        let of_device = |d: u32| {
            let of_chunk = |chunk| layout.virtual_stage(p, d, chunk) as usize;
            let work: u64 = (0..chunks)
                .map(|chunk| self.chunk_cost(layout, chunks, d, chunk))
                .map(|cost| (cost.forward_ns + cost.backward_ns()) * u64::from(self.micro_batches))
                .sum();
            let first = (0..chunks).map(|chunk| down[of_chunk(chunk)]).min().unwrap_or(0);
            let after = (0..chunks).map(|chunk| up[of_chunk(chunk)]).min().unwrap_or(0);
            first + work + if split_backward { 0 } else { after }
        };
        let end = cost(last);
        let turn = end.forward_ns + if split_backward { end.input_grad_ns } else { end.backward_ns() };
        let path = down[last as usize] + turn + up[last as usize];
        (0..p).map(of_device).max().unwrap_or(0).max(path)
    }
}
