//! What attention over pages of an engine's own takes beside the library's cache, on one thread and from the processor's cache: least times of 40
//! calls in turn, whose results have to be the same bits.
use moray::attention::*;
use moray::{Cpu, Isa};
use std::time::Instant;
fn main() -> moray::Result<()> {
    let cpu = Cpu::new(1, Isa::detect())?;
    for (dtype, bytes) in [(KvDtype::F16, 2), (KvDtype::F32, 4)] {
        for d in [64usize, 128] {
            for ctx in [256usize, 640, 2048] {
                for len in [1usize, 64] {
                    let shape = AttentionShape::new(8, 2, d)?;
                    let cap = ctx;
                    let kvs = KvShape { n_layers: 1, n_slots: 1, n_kv_heads: 2, head_dim: d, capacity: cap };
                    let mut cache = KvCache::new(kvs, dtype)?;
                    let mut ws = Workspace::new(&cpu, shape, Limits { max_rows: cap, max_spans: 1, capacity: cap })?;
                    let pages = cap / 16;
                    let layout = PageLayout {
                        n_kv_heads: 2,
                        head_dim: d,
                        n_slots: 1,
                        capacity: cap,
                        n_pages: pages,
                        page_size: 16,
                        max_pages: pages,
                        page_stride: 32 * d,
                        head_stride: d,
                        row_stride: 2 * d,
                    };
                    let mut k = vec![0u32; pages * 32 * d * bytes / 4];
                    let mut v = k.clone();
                    let table: Vec<u32> = (0..pages as u32).map(|i| (i * 7 + 3) % pages as u32).collect();
                    let all = [Span { slot: 0, start: 0, len: cap }];
                    let call = Call { shape, layer: 0, spans: &all, heads: Heads::All };
                    let x: Vec<f32> = (0..cap * 2 * d).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
                    write_kv(&cpu, &call, KvPolicy::WriteAll, None, &x, &x, &mut cache)?;
                    let rows =
                        KvRowsMut::Apart { k: bytemuck::cast_slice_mut(&mut k), v: bytemuck::cast_slice_mut(&mut v) };
                    let mut pm =
                        PagedKvMut { layout, dtype, rows, scales: None, present: None, page_table: Some(&table) };
                    write_kv_paged(&cpu, &call, KvPolicy::WriteAll, None, &x, &x, &mut pm)?;
                    let pk = PagedKv {
                        layout,
                        dtype,
                        k: bytemuck::cast_slice(&k),
                        v: bytemuck::cast_slice(&v),
                        scales: None,
                        present: None,
                        page_table: Some(&table),
                    };
                    let spans = [Span { slot: 0, start: ctx - len, len }];
                    let call = Call { shape, layer: 0, spans: &spans, heads: Heads::All };
                    let q: Vec<f32> = (0..len * 8 * d).map(|i| ((i * 53 % 97) as f32 - 48.0) / 480.0).collect();
                    let (mut a, mut b) = (vec![0f32; q.len()], vec![0f32; q.len()]);
                    let (mut own, mut paged) = (f64::MAX, f64::MAX);
                    for _ in 0..40 {
                        let t = Instant::now();
                        attend(&cpu, &call, &q, &cache, &mut a, &mut ws)?;
                        own = own.min(t.elapsed().as_secs_f64());
                        let t = Instant::now();
                        attend_paged(&cpu, &call, &q, &pk, &mut b, &mut ws)?;
                        paged = paged.min(t.elapsed().as_secs_f64());
                    }
                    assert_eq!(
                        a.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
                        b.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
                    );
                    println!(
                        "{bytes} bytes d {d} ctx {ctx} len {len}: own {:.1} us, paged {:.1} us, {:.2}",
                        own * 1e6,
                        paged * 1e6,
                        paged / own
                    );
                }
            }
        }
    }
    Ok(())
}
