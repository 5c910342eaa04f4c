//! Arguments whose elements share their place in memory, that have none, or that are elsewhere.

use candle_core::{DType, Tensor};
use candle_nn::Module;
use moray_candle::moray::attention::{Heads, KvDtype, KvShape, Span};
use moray_candle::moray::sparse_mlp::{Activation, ScoreOn};
use moray_candle::moray::w4a8::Format;
use moray_candle::{Attention, InputSparseLinear, QuantizedLinear, Selection, SparseMlp};

use super::{FLOATS, assert_refused, bits, device, numbers, runtime, shared_views};

const N: usize = 64;
const K: usize = 96;
const KV: KvShape = KvShape { n_layers: 1, n_slots: 2, n_kv_heads: 2, head_dim: 16, capacity: 40 };

fn linear() -> QuantizedLinear {
    QuantizedLinear::quantize(&runtime(), &numbers(&[N, K], 37, DType::F32), Format::per_channel()).unwrap()
}

fn by_input() -> InputSparseLinear {
    InputSparseLinear::new(&runtime(), &numbers(&[N, K], 37, DType::F16), 0.4).unwrap()
}

fn mlp() -> SparseMlp {
    let [gate, up, down] = [[N, K], [N, K], [K, N]].map(|dims| numbers(&dims, 37, DType::F16));
    SparseMlp::new(&runtime(), Activation::Silu, &gate, &up, &down).unwrap()
}

#[test]
fn views_that_share_memory_give_the_bits_of_their_copies() {
    let device = device();
    let (linear, by_input) = (linear().to_device(&device).unwrap(), by_input().to_device(&device).unwrap());
    let mlp = mlp().with_selection(Selection::top_k(20)).to_device(&device).unwrap();
    for dtype in FLOATS {
        let there = |x: &Tensor| x.to_device(&device).unwrap();
        let x = there(&numbers(&[2, 3, K], 53, dtype));
        for (name, view, copy) in shared_views(&[2, 3, K], 53, dtype) {
            let strides = view.stride().to_vec();
            let (view, copy) = (there(&view), there(&copy));
            assert_eq!(view.stride(), strides, "a view is one on the device too");
            for layer in [&linear as &dyn Module, &by_input, &mlp] {
                assert_eq!(
                    bits(&layer.forward(&view).unwrap()),
                    bits(&layer.forward(&copy).unwrap()),
                    "{dtype:?} {name}"
                );
            }
        }
        for (name, view, copy) in shared_views(&[2, 3, N], 71, dtype) {
            let [view, copy] = [view, copy].map(|residual| bits(&linear.forward_add(&x, &there(&residual)).unwrap()));
            assert_eq!(view, copy, "{dtype:?} residual: {name}");
        }
        let step = |q: &Tensor, k: &Tensor, v: &Tensor| {
            let attention = Attention::new(&runtime(), 6, KV, KvDtype::F32).unwrap().to_device(&device).unwrap();
            bits(&attention.forward(0, &[Span { slot: 1, start: 0, len: 4 }], Heads::All, q, k, v).unwrap())
        };
        let [q, k, v] = [(6, 53), (2, 71), (2, 97)].map(|(heads, step)| there(&numbers(&[4, heads, 16], step, dtype)));
        for (name, view, copy) in shared_views(&[4, 2, 16], 71, dtype) {
            let (view, copy) = (there(&view), there(&copy));
            assert_eq!(step(&q, &view, &v), step(&q, &copy, &v), "{dtype:?} k: {name}");
            assert_eq!(step(&q, &k, &view), step(&q, &k, &copy), "{dtype:?} v: {name}");
        }
        let all = Tensor::cat(&[&q, &k, &v], 1).unwrap();
        let [q_part, k_part, v_part] = [(0, 6), (6, 2), (8, 2)].map(|(first, n)| all.narrow(1, first, n).unwrap());
        assert_eq!(step(&q_part, &k_part, &v_part), step(&q, &k, &v), "{dtype:?} in one storage");
    }
}

#[test]
fn no_token_gives_no_token_and_is_refused_what_tokens_are() {
    let device = device();
    let (linear, by_input) = (linear().to_device(&device).unwrap(), by_input().to_device(&device).unwrap());
    let mlp = mlp().to_device(&device).unwrap();
    // candle itself allocates no tensor without elements on a device
    let none = |dims: &[usize], dtype| numbers(dims, 53, dtype).to_device(&device).unwrap().narrow(0, 0, 0).unwrap();
    for dtype in FLOATS {
        for (layer, width) in [(&linear as &dyn Module, N), (&by_input, N), (&mlp, K)] {
            let y = layer.forward(&none(&[2, K], dtype)).unwrap();
            assert_eq!((y.dims(), y.dtype()), (&[0, width][..], dtype));
            assert_refused(layer.forward(&none(&[2, K - 1], dtype)), &["x: ", "96", "[0, 95]"]);
        }
        let attention = Attention::new(&runtime(), 6, KV, KvDtype::F32).unwrap().to_device(&device).unwrap();
        let [q, k, v] = [6, 2, 2].map(|heads| none(&[1, heads, 16], dtype));
        assert_eq!(attention.forward(0, &[], Heads::All, &q, &k, &v).unwrap().dims(), [0, 6, 16]);
    }
    for layer in [&linear as &dyn Module, &by_input, &mlp] {
        let whole = none(&[2, K], DType::U32);
        assert_refused(layer.forward(&whole), &["x: expected f32, f16 or bf16, got u32"]);
    }
    assert_refused(mlp.forward_selected(&none(&[2, K], DType::F16), &Selection::top_k(0)), &["k"]);
    assert_refused(mlp.forward_selected(&none(&[2, K], DType::F16), &Selection::gate_above(-1.0)), &["threshold"]);
}

#[test]
fn what_is_elsewhere_or_of_another_type_is_refused_by_name() {
    let device = device();
    let there = |x: &Tensor| x.to_device(&device).unwrap();
    let linear = linear().to_device(&device).unwrap();
    let x = there(&numbers(&[2, K], 53, DType::F32));
    let whole = there(&Tensor::ones(N, DType::U32, &candle_core::Device::Cpu).unwrap());
    assert_refused(linear.clone().with_bias(&whole), &["bias: expected floating point, got u32"]);
    let halves = there(&numbers(&[2, N], 71, DType::F16));
    assert_refused(linear.forward_add(&x, &halves), &["residual: expected f32, got f16"]);

    // factors are read on the host wherever they are
    let mlp = mlp().to_device(&device).unwrap();
    let scaled = |scale: Tensor| Selection::TopK { on: ScoreOn::Gate, channel_scale: Some(scale), k: 4 };
    let negative = scaled(there(&numbers(&[N], 53, DType::F32)));
    assert_refused(mlp.forward_selected(&x, &negative), &["channel_scale: expected finite factors of at least 0"]);
    let short = scaled(numbers(&[N - 1], 53, DType::F32));
    assert_refused(mlp.forward_selected(&x, &short), &["channel_scale", "64", "63"]);

    let attention = Attention::new(&runtime(), 6, KV, KvDtype::F32).unwrap().to_device(&device).unwrap();
    let here = [(6, 53), (2, 71), (2, 97)].map(|(heads, step)| numbers(&[2, heads, 16], step, DType::F32));
    let [q, k, v] = here.each_ref().map(there);
    let call = |q: &Tensor, k: &Tensor, v: &Tensor| {
        attention.forward(0, &[Span { slot: 0, start: 0, len: 2 }], Heads::All, q, k, v)
    };
    assert_refused(call(&q, &k, &here[2]), &["v: expected a tensor on cuda:0", "the CPU"]);
    assert_refused(call(&q, &k, &v.to_dtype(DType::BF16).unwrap()), &["v: expected f32, got bf16"]);
    assert_refused(call(&q.to_dtype(DType::F64).unwrap(), &k, &v), &["q: expected f32, f16 or bf16, got f64"]);
    assert!(attention.is_empty(0));
    call(&q, &k, &v).unwrap();
}
