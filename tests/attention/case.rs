//! Random cases: a cache with a history, a ragged batch, a selection.

use half::{bf16, f16};
use moray::attention::*;
use moray::{Cpu, Isa};
use proptest::prelude::*;

pub const DTYPES: [KvDtype; 4] = [KvDtype::F32, KvDtype::F16, KvDtype::Bf16, KvDtype::Int8];
pub const CAPACITY: usize = 640;

/// Uniform in [−1, 1), from a seed.
pub fn noise(elems: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    })
    .take(elems)
    .collect()
}

/// A row of K or V as a cache holds it.
pub fn rounded(dtype: KvDtype, row: &[f32]) -> Vec<f32> {
    let largest = row.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let scale = largest / 127.0;
    let one = |&x: &f32| match dtype {
        KvDtype::F16 => f16::from_f32(x).to_f32(),
        KvDtype::Bf16 => bf16::from_f32(x).to_f32(),
        KvDtype::Int8 if largest == 0.0 => 0.0,
        // a code has no zero of its own sign
        KvDtype::Int8 => scale * ((x * (1.0 / scale)).round_ties_even() + 0.0),
        _ => x,
    };
    row.iter().map(one).collect()
}

pub fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// A selection that owns its buffers.
#[derive(Debug, Clone)]
pub enum OwnedHeads {
    All,
    List { list: Vec<u32>, counts: Vec<u32> },
    Groups { list: Vec<u32>, counts: Vec<u32> },
    Mask { words: Vec<u32> },
}

impl OwnedHeads {
    pub fn as_heads(&self) -> Heads<'_> {
        match self {
            OwnedHeads::All => Heads::All,
            OwnedHeads::List { list, counts } => Heads::List { list, counts },
            OwnedHeads::Groups { list, counts } => Heads::Groups { list, counts },
            OwnedHeads::Mask { words } => Heads::Mask { words },
        }
    }

    /// Form `kind`, with head i of each span in it where `bits` has bit i.
    pub fn new(kind: usize, shape: &AttentionShape, bits: &[u32]) -> OwnedHeads {
        let list_of = |n: usize| {
            let rows: Vec<Vec<u32>> =
                bits.iter().map(|bits| (0..n as u32).filter(|i| bits >> i & 1 == 1).collect()).collect();
            let counts = rows.iter().map(|row| row.len() as u32).collect();
            // The unused places hold what no check may accept as a head.
            let list = rows.into_iter().flat_map(|mut row| {
                row.resize(n, u32::MAX);
                row
            });
            (list.collect(), counts)
        };
        match kind {
            0 => OwnedHeads::All,
            1 => {
                let (list, counts) = list_of(shape.n_q_heads);
                OwnedHeads::List { list, counts }
            }
            2 => {
                let (list, counts) = list_of(shape.n_kv_heads);
                OwnedHeads::Groups { list, counts }
            }
            _ => OwnedHeads::Mask { words: bits.to_vec() },
        }
    }
}

#[derive(Debug, Clone)]
pub struct Case {
    pub shape: AttentionShape,
    pub dtype: KvDtype,
    pub spans: Vec<Span>,
    pub heads: OwnedHeads,
    pub policy: KvPolicy,
    /// Per span, the heads that ran for its history.
    pub history: OwnedHeads,
    pub threads: usize,
    pub seed: u64,
}

/// Any case; `wide` draws contexts of several segments.
pub fn any_case(longest_start: usize) -> impl Strategy<Value = Case> {
    let shapes = prop::sample::select(vec![(1, 1), (3, 3), (9, 3), (8, 2), (7, 1), (4, 4)]);
    let head_dims = prop::sample::select(vec![8, 24, 64, 80, 96, 128]);
    let policies =
        prop::sample::select(vec![KvPolicy::WriteAll, KvPolicy::Hole, KvPolicy::Zero, KvPolicy::Recompute { lag: 4 }]);
    let spans = prop::collection::vec((0..longest_start, 0..70usize), 1..4);
    // Empty, full and single-headed selections are drawn on purpose.
    let bits = || prop::collection::vec(prop_oneof![Just(0u32), Just(u32::MAX), Just(4), any::<u32>()], 3);
    (
        (shapes, head_dims, 0..DTYPES.len(), policies),
        spans,
        (0..4usize, bits()),
        (0..4usize, bits()),
        (1..4usize, any::<u64>()),
    )
        .prop_map(|((heads, d, dtype, policy), spans, running, history, (threads, seed))| {
            let shape = AttentionShape::new(heads.0, heads.1, d).unwrap();
            // Slots in falling order, so that a row's span and slot differ.
            let slots = (0..spans.len()).rev();
            let spans: Vec<Span> =
                spans.iter().zip(slots).map(|(&(start, len), slot)| Span { slot, start, len }).collect();
            let owned = |(kind, bits): (usize, Vec<u32>)| OwnedHeads::new(kind, &shape, &bits[..spans.len()]);
            let (heads, history) = (owned(running), owned(history));
            Case { shape, dtype: DTYPES[dtype], heads, policy, history, threads, seed, spans }
        })
}

/// A key and a value, or a hole.
pub type StoredRow = Option<(Vec<f32>, Vec<f32>)>;

/// What a test believes the cache to hold: [slot][position][kv_head], the elements as stored.
pub struct Model {
    pub rows: Vec<Vec<Vec<StoredRow>>>,
}

impl Case {
    pub fn kv_shape(&self) -> KvShape {
        let AttentionShape { n_kv_heads, head_dim, .. } = self.shape;
        KvShape { n_layers: 2, n_slots: 3, n_kv_heads, head_dim, capacity: CAPACITY }
    }

    pub fn call<'a>(&self, spans: &'a [Span], heads: Heads<'a>) -> Call<'a> {
        Call { shape: self.shape, layer: 1, spans, heads }
    }

    /// Writes the histories, then the spans, into a new cache and into a model of it.
    pub fn fill(&self, cpu: &Cpu) -> (KvCache, Model) {
        let mut cache = KvCache::new(self.kv_shape(), self.dtype).unwrap();
        let mut model = Model { rows: vec![vec![vec![None; self.shape.n_kv_heads]; CAPACITY]; 3] };
        let before: Vec<Span> = self.spans.iter().map(|span| Span { start: 0, len: span.start, ..*span }).collect();
        self.write(cpu, &mut cache, &mut model, &before, self.history.as_heads(), self.seed ^ 1);
        self.write(cpu, &mut cache, &mut model, &self.spans, self.heads.as_heads(), self.seed ^ 2);
        (cache, model)
    }

    fn write(&self, cpu: &Cpu, cache: &mut KvCache, model: &mut Model, spans: &[Span], heads: Heads<'_>, seed: u64) {
        let (call, d) = (self.call(spans, heads), self.shape.head_dim);
        let (k, v) = self.rows(spans, seed);
        write_kv(cpu, &call, self.policy, None, &k, &v, cache).unwrap();
        let mut row = 0;
        for (index, span) in spans.iter().enumerate() {
            for position in span.start..span.end() {
                for kv_head in 0..self.shape.n_kv_heads {
                    let group = kv_head * self.shape.group_size()..(kv_head + 1) * self.shape.group_size();
                    let runs = group.into_iter().any(|head| heads.contains(&self.shape, index, head));
                    let from = row * self.shape.kv_elems() + kv_head * d;
                    let stored = |x: &[f32]| rounded(self.dtype, &x[from..from + d]);
                    model.rows[span.slot][position][kv_head] = match (runs, self.policy) {
                        (true, _) | (_, KvPolicy::WriteAll) => Some((stored(&k), stored(&v))),
                        (false, KvPolicy::Zero) => Some((vec![0.0; d], vec![0.0; d])),
                        (false, _) => None,
                    };
                }
                row += 1;
            }
        }
    }

    /// k and v of some spans' tokens.
    pub fn rows(&self, spans: &[Span], seed: u64) -> (Vec<f32>, Vec<f32>) {
        let elems = spans.iter().map(|span| span.len).sum::<usize>() * self.shape.kv_elems();
        (noise(elems, seed), noise(elems, seed ^ 0xFF00))
    }

    pub fn q(&self) -> Vec<f32> {
        let rows: usize = self.spans.iter().map(|span| span.len).sum();
        noise(rows * self.shape.q_elems(), self.seed ^ 3).iter().map(|x| 2.0 * x).collect()
    }

    pub fn workspace(&self, cpu: &Cpu) -> Workspace {
        Workspace::new(cpu, self.shape, Limits { max_rows: CAPACITY, max_spans: 3, capacity: CAPACITY }).unwrap()
    }

    /// Attention of the spans; the output starts as NaN, so that nothing may stay unwritten.
    pub fn attend(&self, cpu: &Cpu, cache: &KvCache) -> Vec<f32> {
        let q = self.q();
        let mut out = vec![f32::NAN; q.len()];
        let call = self.call(&self.spans, self.heads.as_heads());
        attend(cpu, &call, &q, cache, &mut out, &mut self.workspace(cpu)).unwrap();
        out
    }
}

pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}
