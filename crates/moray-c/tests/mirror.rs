//! What bindgen reads in `include/moray.h`, asserted of the crate; written by `cargo xtask mirror`.
#![allow(clippy::identity_op, clippy::unnecessary_operation)]
#![allow(improper_ctypes)] // handles are opaque

use moray_c::*;

const _: () = {
    ["Size of MorayFormat"][::core::mem::size_of::<MorayFormat>() - 16usize];
    ["Alignment of MorayFormat"][::core::mem::align_of::<MorayFormat>() - 4usize];
    ["Offset of field: MorayFormat::bits"][::core::mem::offset_of!(MorayFormat, bits) - 0usize];
    ["Offset of field: MorayFormat::group_size"][::core::mem::offset_of!(MorayFormat, group_size) - 4usize];
    ["Offset of field: MorayFormat::group_scale"][::core::mem::offset_of!(MorayFormat, group_scale) - 8usize];
    ["Offset of field: MorayFormat::offset"][::core::mem::offset_of!(MorayFormat, offset) - 12usize];
};
const _: () = {
    ["Size of MoraySectionBytes"][::core::mem::size_of::<MoraySectionBytes>() - 32usize];
    ["Alignment of MoraySectionBytes"][::core::mem::align_of::<MoraySectionBytes>() - 8usize];
    ["Offset of field: MoraySectionBytes::codes"][::core::mem::offset_of!(MoraySectionBytes, codes) - 0usize];
    ["Offset of field: MoraySectionBytes::channel"][::core::mem::offset_of!(MoraySectionBytes, channel) - 8usize];
    ["Offset of field: MoraySectionBytes::group"][::core::mem::offset_of!(MoraySectionBytes, group) - 16usize];
    ["Offset of field: MoraySectionBytes::offset"][::core::mem::offset_of!(MoraySectionBytes, offset) - 24usize];
};
const _: () = {
    ["Size of MorayQuery"][::core::mem::size_of::<MorayQuery>() - 32usize];
    ["Alignment of MorayQuery"][::core::mem::align_of::<MorayQuery>() - 4usize];
    ["Offset of field: MorayQuery::struct_size"][::core::mem::offset_of!(MorayQuery, struct_size) - 0usize];
    ["Offset of field: MorayQuery::op"][::core::mem::offset_of!(MorayQuery, op) - 4usize];
    ["Offset of field: MorayQuery::format"][::core::mem::offset_of!(MorayQuery, format) - 8usize];
    ["Offset of field: MorayQuery::dtype"][::core::mem::offset_of!(MorayQuery, dtype) - 24usize];
    ["Offset of field: MorayQuery::arch"][::core::mem::offset_of!(MorayQuery, arch) - 28usize];
};
const _: () = {
    ["Size of MoraySupport"][::core::mem::size_of::<MoraySupport>() - 16usize];
    ["Alignment of MoraySupport"][::core::mem::align_of::<MoraySupport>() - 8usize];
    ["Offset of field: MoraySupport::supported"][::core::mem::offset_of!(MoraySupport, supported) - 0usize];
    ["Offset of field: MoraySupport::words"][::core::mem::offset_of!(MoraySupport, words) - 8usize];
};
const _: () = {
    ["Size of MorayBytes"][::core::mem::size_of::<MorayBytes>() - 16usize];
    ["Alignment of MorayBytes"][::core::mem::align_of::<MorayBytes>() - 8usize];
    ["Offset of field: MorayBytes::data"][::core::mem::offset_of!(MorayBytes, data) - 0usize];
    ["Offset of field: MorayBytes::bytes"][::core::mem::offset_of!(MorayBytes, bytes) - 8usize];
};
const _: () = {
    ["Size of MoraySections"][::core::mem::size_of::<MoraySections>() - 64usize];
    ["Alignment of MoraySections"][::core::mem::align_of::<MoraySections>() - 8usize];
    ["Offset of field: MoraySections::codes"][::core::mem::offset_of!(MoraySections, codes) - 0usize];
    ["Offset of field: MoraySections::channel"][::core::mem::offset_of!(MoraySections, channel) - 16usize];
    ["Offset of field: MoraySections::group"][::core::mem::offset_of!(MoraySections, group) - 32usize];
    ["Offset of field: MoraySections::offset"][::core::mem::offset_of!(MoraySections, offset) - 48usize];
};
const _: () = {
    ["Size of MorayBytesMut"][::core::mem::size_of::<MorayBytesMut>() - 16usize];
    ["Alignment of MorayBytesMut"][::core::mem::align_of::<MorayBytesMut>() - 8usize];
    ["Offset of field: MorayBytesMut::data"][::core::mem::offset_of!(MorayBytesMut, data) - 0usize];
    ["Offset of field: MorayBytesMut::bytes"][::core::mem::offset_of!(MorayBytesMut, bytes) - 8usize];
};
const _: () = {
    ["Size of MorayExported"][::core::mem::size_of::<MorayExported>() - 96usize];
    ["Alignment of MorayExported"][::core::mem::align_of::<MorayExported>() - 8usize];
    ["Offset of field: MorayExported::struct_size"][::core::mem::offset_of!(MorayExported, struct_size) - 0usize];
    ["Offset of field: MorayExported::layout"][::core::mem::offset_of!(MorayExported, layout) - 4usize];
    ["Offset of field: MorayExported::bits"][::core::mem::offset_of!(MorayExported, bits) - 8usize];
    ["Offset of field: MorayExported::scale_dtype"][::core::mem::offset_of!(MorayExported, scale_dtype) - 12usize];
    ["Offset of field: MorayExported::n"][::core::mem::offset_of!(MorayExported, n) - 16usize];
    ["Offset of field: MorayExported::k"][::core::mem::offset_of!(MorayExported, k) - 24usize];
    ["Offset of field: MorayExported::codes"][::core::mem::offset_of!(MorayExported, codes) - 32usize];
    ["Offset of field: MorayExported::scales"][::core::mem::offset_of!(MorayExported, scales) - 48usize];
    ["Offset of field: MorayExported::zeros"][::core::mem::offset_of!(MorayExported, zeros) - 64usize];
    ["Offset of field: MorayExported::group_of"][::core::mem::offset_of!(MorayExported, group_of) - 80usize];
};
const _: () = {
    ["Size of MoraySectionsMut"][::core::mem::size_of::<MoraySectionsMut>() - 64usize];
    ["Alignment of MoraySectionsMut"][::core::mem::align_of::<MoraySectionsMut>() - 8usize];
    ["Offset of field: MoraySectionsMut::codes"][::core::mem::offset_of!(MoraySectionsMut, codes) - 0usize];
    ["Offset of field: MoraySectionsMut::channel"][::core::mem::offset_of!(MoraySectionsMut, channel) - 16usize];
    ["Offset of field: MoraySectionsMut::group"][::core::mem::offset_of!(MoraySectionsMut, group) - 32usize];
    ["Offset of field: MoraySectionsMut::offset"][::core::mem::offset_of!(MoraySectionsMut, offset) - 48usize];
};
const _: () = {
    ["Size of MorayActivationsView"][::core::mem::size_of::<MorayActivationsView>() - 64usize];
    ["Alignment of MorayActivationsView"][::core::mem::align_of::<MorayActivationsView>() - 8usize];
    ["Offset of field: MorayActivationsView::m"][::core::mem::offset_of!(MorayActivationsView, m) - 0usize];
    ["Offset of field: MorayActivationsView::k"][::core::mem::offset_of!(MorayActivationsView, k) - 8usize];
    ["Offset of field: MorayActivationsView::codes"][::core::mem::offset_of!(MorayActivationsView, codes) - 16usize];
    ["Offset of field: MorayActivationsView::scale"][::core::mem::offset_of!(MorayActivationsView, scale) - 32usize];
    ["Offset of field: MorayActivationsView::sums"][::core::mem::offset_of!(MorayActivationsView, sums) - 48usize];
};
const _: () = {
    ["Size of MorayLinear"][::core::mem::size_of::<MorayLinear>() - 88usize];
    ["Alignment of MorayLinear"][::core::mem::align_of::<MorayLinear>() - 8usize];
    ["Offset of field: MorayLinear::struct_size"][::core::mem::offset_of!(MorayLinear, struct_size) - 0usize];
    ["Offset of field: MorayLinear::dtype"][::core::mem::offset_of!(MorayLinear, dtype) - 4usize];
    ["Offset of field: MorayLinear::weight"][::core::mem::offset_of!(MorayLinear, weight) - 8usize];
    ["Offset of field: MorayLinear::x"][::core::mem::offset_of!(MorayLinear, x) - 16usize];
    ["Offset of field: MorayLinear::bias"][::core::mem::offset_of!(MorayLinear, bias) - 24usize];
    ["Offset of field: MorayLinear::residual"][::core::mem::offset_of!(MorayLinear, residual) - 40usize];
    ["Offset of field: MorayLinear::y"][::core::mem::offset_of!(MorayLinear, y) - 56usize];
    ["Offset of field: MorayLinear::row_begin"][::core::mem::offset_of!(MorayLinear, row_begin) - 72usize];
    ["Offset of field: MorayLinear::row_end"][::core::mem::offset_of!(MorayLinear, row_end) - 80usize];
};
const _: () = {
    ["Size of MorayMlpShape"][::core::mem::size_of::<MorayMlpShape>() - 24usize];
    ["Alignment of MorayMlpShape"][::core::mem::align_of::<MorayMlpShape>() - 8usize];
    ["Offset of field: MorayMlpShape::d_model"][::core::mem::offset_of!(MorayMlpShape, d_model) - 0usize];
    ["Offset of field: MorayMlpShape::d_ff"][::core::mem::offset_of!(MorayMlpShape, d_ff) - 8usize];
    ["Offset of field: MorayMlpShape::activation"][::core::mem::offset_of!(MorayMlpShape, activation) - 16usize];
};
const _: () = {
    ["Size of MorayMlpBiases"][::core::mem::size_of::<MorayMlpBiases>() - 48usize];
    ["Alignment of MorayMlpBiases"][::core::mem::align_of::<MorayMlpBiases>() - 8usize];
    ["Offset of field: MorayMlpBiases::gate"][::core::mem::offset_of!(MorayMlpBiases, gate) - 0usize];
    ["Offset of field: MorayMlpBiases::up"][::core::mem::offset_of!(MorayMlpBiases, up) - 16usize];
    ["Offset of field: MorayMlpBiases::down"][::core::mem::offset_of!(MorayMlpBiases, down) - 32usize];
};
const _: () = {
    ["Size of MoraySelection"][::core::mem::size_of::<MoraySelection>() - 72usize];
    ["Alignment of MoraySelection"][::core::mem::align_of::<MoraySelection>() - 8usize];
    ["Offset of field: MoraySelection::struct_size"][::core::mem::offset_of!(MoraySelection, struct_size) - 0usize];
    ["Offset of field: MoraySelection::kind"][::core::mem::offset_of!(MoraySelection, kind) - 4usize];
    ["Offset of field: MoraySelection::list"][::core::mem::offset_of!(MoraySelection, list) - 8usize];
    ["Offset of field: MoraySelection::masks"][::core::mem::offset_of!(MoraySelection, masks) - 24usize];
    ["Offset of field: MoraySelection::score"][::core::mem::offset_of!(MoraySelection, score) - 40usize];
    ["Offset of field: MoraySelection::threshold"][::core::mem::offset_of!(MoraySelection, threshold) - 44usize];
    ["Offset of field: MoraySelection::k"][::core::mem::offset_of!(MoraySelection, k) - 48usize];
    ["Offset of field: MoraySelection::channel_scale"]
        [::core::mem::offset_of!(MoraySelection, channel_scale) - 56usize];
};
const _: () = {
    ["Size of MorayMlpForward"][::core::mem::size_of::<MorayMlpForward>() - 80usize];
    ["Alignment of MorayMlpForward"][::core::mem::align_of::<MorayMlpForward>() - 8usize];
    ["Offset of field: MorayMlpForward::struct_size"][::core::mem::offset_of!(MorayMlpForward, struct_size) - 0usize];
    ["Offset of field: MorayMlpForward::mlp"][::core::mem::offset_of!(MorayMlpForward, mlp) - 8usize];
    ["Offset of field: MorayMlpForward::workspace"][::core::mem::offset_of!(MorayMlpForward, workspace) - 16usize];
    ["Offset of field: MorayMlpForward::selection"][::core::mem::offset_of!(MorayMlpForward, selection) - 24usize];
    ["Offset of field: MorayMlpForward::x"][::core::mem::offset_of!(MorayMlpForward, x) - 32usize];
    ["Offset of field: MorayMlpForward::residual"][::core::mem::offset_of!(MorayMlpForward, residual) - 48usize];
    ["Offset of field: MorayMlpForward::y"][::core::mem::offset_of!(MorayMlpForward, y) - 64usize];
};
const _: () = {
    ["Size of MorayMlpGateUp"][::core::mem::size_of::<MorayMlpGateUp>() - 104usize];
    ["Alignment of MorayMlpGateUp"][::core::mem::align_of::<MorayMlpGateUp>() - 8usize];
    ["Offset of field: MorayMlpGateUp::struct_size"][::core::mem::offset_of!(MorayMlpGateUp, struct_size) - 0usize];
    ["Offset of field: MorayMlpGateUp::gate_is_given"][::core::mem::offset_of!(MorayMlpGateUp, gate_is_given) - 4usize];
    ["Offset of field: MorayMlpGateUp::mlp"][::core::mem::offset_of!(MorayMlpGateUp, mlp) - 8usize];
    ["Offset of field: MorayMlpGateUp::x"][::core::mem::offset_of!(MorayMlpGateUp, x) - 16usize];
    ["Offset of field: MorayMlpGateUp::activations"][::core::mem::offset_of!(MorayMlpGateUp, activations) - 32usize];
    ["Offset of field: MorayMlpGateUp::list"][::core::mem::offset_of!(MorayMlpGateUp, list) - 40usize];
    ["Offset of field: MorayMlpGateUp::gate"][::core::mem::offset_of!(MorayMlpGateUp, gate) - 56usize];
    ["Offset of field: MorayMlpGateUp::hidden"][::core::mem::offset_of!(MorayMlpGateUp, hidden) - 72usize];
    ["Offset of field: MorayMlpGateUp::begin"][::core::mem::offset_of!(MorayMlpGateUp, begin) - 88usize];
    ["Offset of field: MorayMlpGateUp::end"][::core::mem::offset_of!(MorayMlpGateUp, end) - 96usize];
};
const _: () = {
    ["Size of MorayMlpSelect"][::core::mem::size_of::<MorayMlpSelect>() - 72usize];
    ["Alignment of MorayMlpSelect"][::core::mem::align_of::<MorayMlpSelect>() - 8usize];
    ["Offset of field: MorayMlpSelect::struct_size"][::core::mem::offset_of!(MorayMlpSelect, struct_size) - 0usize];
    ["Offset of field: MorayMlpSelect::selection"][::core::mem::offset_of!(MorayMlpSelect, selection) - 8usize];
    ["Offset of field: MorayMlpSelect::n"][::core::mem::offset_of!(MorayMlpSelect, n) - 16usize];
    ["Offset of field: MorayMlpSelect::values"][::core::mem::offset_of!(MorayMlpSelect, values) - 24usize];
    ["Offset of field: MorayMlpSelect::masks"][::core::mem::offset_of!(MorayMlpSelect, masks) - 40usize];
    ["Offset of field: MorayMlpSelect::list"][::core::mem::offset_of!(MorayMlpSelect, list) - 56usize];
};
const _: () = {
    ["Size of MorayMlpDown"][::core::mem::size_of::<MorayMlpDown>() - 104usize];
    ["Alignment of MorayMlpDown"][::core::mem::align_of::<MorayMlpDown>() - 8usize];
    ["Offset of field: MorayMlpDown::struct_size"][::core::mem::offset_of!(MorayMlpDown, struct_size) - 0usize];
    ["Offset of field: MorayMlpDown::mlp"][::core::mem::offset_of!(MorayMlpDown, mlp) - 8usize];
    ["Offset of field: MorayMlpDown::workspace"][::core::mem::offset_of!(MorayMlpDown, workspace) - 16usize];
    ["Offset of field: MorayMlpDown::list"][::core::mem::offset_of!(MorayMlpDown, list) - 24usize];
    ["Offset of field: MorayMlpDown::hidden"][::core::mem::offset_of!(MorayMlpDown, hidden) - 40usize];
    ["Offset of field: MorayMlpDown::residual"][::core::mem::offset_of!(MorayMlpDown, residual) - 56usize];
    ["Offset of field: MorayMlpDown::y"][::core::mem::offset_of!(MorayMlpDown, y) - 72usize];
    ["Offset of field: MorayMlpDown::column_begin"][::core::mem::offset_of!(MorayMlpDown, column_begin) - 88usize];
    ["Offset of field: MorayMlpDown::column_end"][::core::mem::offset_of!(MorayMlpDown, column_end) - 96usize];
};
const _: () = {
    ["Size of MorayByInput"][::core::mem::size_of::<MorayByInput>() - 104usize];
    ["Alignment of MorayByInput"][::core::mem::align_of::<MorayByInput>() - 8usize];
    ["Offset of field: MorayByInput::struct_size"][::core::mem::offset_of!(MorayByInput, struct_size) - 0usize];
    ["Offset of field: MorayByInput::threshold"][::core::mem::offset_of!(MorayByInput, threshold) - 4usize];
    ["Offset of field: MorayByInput::weight"][::core::mem::offset_of!(MorayByInput, weight) - 8usize];
    ["Offset of field: MorayByInput::workspace"][::core::mem::offset_of!(MorayByInput, workspace) - 16usize];
    ["Offset of field: MorayByInput::x"][::core::mem::offset_of!(MorayByInput, x) - 24usize];
    ["Offset of field: MorayByInput::bias"][::core::mem::offset_of!(MorayByInput, bias) - 40usize];
    ["Offset of field: MorayByInput::residual"][::core::mem::offset_of!(MorayByInput, residual) - 56usize];
    ["Offset of field: MorayByInput::y"][::core::mem::offset_of!(MorayByInput, y) - 72usize];
    ["Offset of field: MorayByInput::row_begin"][::core::mem::offset_of!(MorayByInput, row_begin) - 88usize];
    ["Offset of field: MorayByInput::row_end"][::core::mem::offset_of!(MorayByInput, row_end) - 96usize];
};
const _: () = {
    ["Size of MorayKvShape"][::core::mem::size_of::<MorayKvShape>() - 40usize];
    ["Alignment of MorayKvShape"][::core::mem::align_of::<MorayKvShape>() - 8usize];
    ["Offset of field: MorayKvShape::n_layers"][::core::mem::offset_of!(MorayKvShape, n_layers) - 0usize];
    ["Offset of field: MorayKvShape::n_slots"][::core::mem::offset_of!(MorayKvShape, n_slots) - 8usize];
    ["Offset of field: MorayKvShape::n_kv_heads"][::core::mem::offset_of!(MorayKvShape, n_kv_heads) - 16usize];
    ["Offset of field: MorayKvShape::head_dim"][::core::mem::offset_of!(MorayKvShape, head_dim) - 24usize];
    ["Offset of field: MorayKvShape::capacity"][::core::mem::offset_of!(MorayKvShape, capacity) - 32usize];
};
const _: () = {
    ["Size of MorayKvRow"][::core::mem::size_of::<MorayKvRow>() - 32usize];
    ["Alignment of MorayKvRow"][::core::mem::align_of::<MorayKvRow>() - 8usize];
    ["Offset of field: MorayKvRow::layer"][::core::mem::offset_of!(MorayKvRow, layer) - 0usize];
    ["Offset of field: MorayKvRow::slot"][::core::mem::offset_of!(MorayKvRow, slot) - 8usize];
    ["Offset of field: MorayKvRow::kv_head"][::core::mem::offset_of!(MorayKvRow, kv_head) - 16usize];
    ["Offset of field: MorayKvRow::position"][::core::mem::offset_of!(MorayKvRow, position) - 24usize];
};
const _: () = {
    ["Size of MorayAttentionShape"][::core::mem::size_of::<MorayAttentionShape>() - 48usize];
    ["Alignment of MorayAttentionShape"][::core::mem::align_of::<MorayAttentionShape>() - 8usize];
    ["Offset of field: MorayAttentionShape::n_q_heads"]
        [::core::mem::offset_of!(MorayAttentionShape, n_q_heads) - 0usize];
    ["Offset of field: MorayAttentionShape::n_kv_heads"]
        [::core::mem::offset_of!(MorayAttentionShape, n_kv_heads) - 8usize];
    ["Offset of field: MorayAttentionShape::head_dim"]
        [::core::mem::offset_of!(MorayAttentionShape, head_dim) - 16usize];
    ["Offset of field: MorayAttentionShape::max_rows"]
        [::core::mem::offset_of!(MorayAttentionShape, max_rows) - 24usize];
    ["Offset of field: MorayAttentionShape::max_spans"]
        [::core::mem::offset_of!(MorayAttentionShape, max_spans) - 32usize];
    ["Offset of field: MorayAttentionShape::capacity"]
        [::core::mem::offset_of!(MorayAttentionShape, capacity) - 40usize];
};
const _: () = {
    ["Size of MoraySpan"][::core::mem::size_of::<MoraySpan>() - 24usize];
    ["Alignment of MoraySpan"][::core::mem::align_of::<MoraySpan>() - 8usize];
    ["Offset of field: MoraySpan::slot"][::core::mem::offset_of!(MoraySpan, slot) - 0usize];
    ["Offset of field: MoraySpan::start"][::core::mem::offset_of!(MoraySpan, start) - 8usize];
    ["Offset of field: MoraySpan::len"][::core::mem::offset_of!(MoraySpan, len) - 16usize];
};
const _: () = {
    ["Size of MorayKvPages"][::core::mem::size_of::<MorayKvPages>() - 168usize];
    ["Alignment of MorayKvPages"][::core::mem::align_of::<MorayKvPages>() - 8usize];
    ["Offset of field: MorayKvPages::dtype"][::core::mem::offset_of!(MorayKvPages, dtype) - 0usize];
    ["Offset of field: MorayKvPages::k"][::core::mem::offset_of!(MorayKvPages, k) - 8usize];
    ["Offset of field: MorayKvPages::v"][::core::mem::offset_of!(MorayKvPages, v) - 24usize];
    ["Offset of field: MorayKvPages::k_scale"][::core::mem::offset_of!(MorayKvPages, k_scale) - 40usize];
    ["Offset of field: MorayKvPages::v_scale"][::core::mem::offset_of!(MorayKvPages, v_scale) - 56usize];
    ["Offset of field: MorayKvPages::present"][::core::mem::offset_of!(MorayKvPages, present) - 72usize];
    ["Offset of field: MorayKvPages::page_table"][::core::mem::offset_of!(MorayKvPages, page_table) - 88usize];
    ["Offset of field: MorayKvPages::n_slots"][::core::mem::offset_of!(MorayKvPages, n_slots) - 104usize];
    ["Offset of field: MorayKvPages::n_pages"][::core::mem::offset_of!(MorayKvPages, n_pages) - 112usize];
    ["Offset of field: MorayKvPages::page_size"][::core::mem::offset_of!(MorayKvPages, page_size) - 120usize];
    ["Offset of field: MorayKvPages::max_pages"][::core::mem::offset_of!(MorayKvPages, max_pages) - 128usize];
    ["Offset of field: MorayKvPages::page_stride"][::core::mem::offset_of!(MorayKvPages, page_stride) - 136usize];
    ["Offset of field: MorayKvPages::head_stride"][::core::mem::offset_of!(MorayKvPages, head_stride) - 144usize];
    ["Offset of field: MorayKvPages::row_stride"][::core::mem::offset_of!(MorayKvPages, row_stride) - 152usize];
    ["Offset of field: MorayKvPages::capacity"][::core::mem::offset_of!(MorayKvPages, capacity) - 160usize];
};
const _: () = {
    ["Size of MorayAttend"][::core::mem::size_of::<MorayAttend>() - 120usize];
    ["Alignment of MorayAttend"][::core::mem::align_of::<MorayAttend>() - 8usize];
    ["Offset of field: MorayAttend::struct_size"][::core::mem::offset_of!(MorayAttend, struct_size) - 0usize];
    ["Offset of field: MorayAttend::heads"][::core::mem::offset_of!(MorayAttend, heads) - 4usize];
    ["Offset of field: MorayAttend::attention"][::core::mem::offset_of!(MorayAttend, attention) - 8usize];
    ["Offset of field: MorayAttend::cache"][::core::mem::offset_of!(MorayAttend, cache) - 16usize];
    ["Offset of field: MorayAttend::layer"][::core::mem::offset_of!(MorayAttend, layer) - 24usize];
    ["Offset of field: MorayAttend::spans"][::core::mem::offset_of!(MorayAttend, spans) - 32usize];
    ["Offset of field: MorayAttend::n_spans"][::core::mem::offset_of!(MorayAttend, n_spans) - 40usize];
    ["Offset of field: MorayAttend::list"][::core::mem::offset_of!(MorayAttend, list) - 48usize];
    ["Offset of field: MorayAttend::counts"][::core::mem::offset_of!(MorayAttend, counts) - 64usize];
    ["Offset of field: MorayAttend::span_begin"][::core::mem::offset_of!(MorayAttend, span_begin) - 80usize];
    ["Offset of field: MorayAttend::span_end"][::core::mem::offset_of!(MorayAttend, span_end) - 88usize];
    ["Offset of field: MorayAttend::kv_head_begin"][::core::mem::offset_of!(MorayAttend, kv_head_begin) - 96usize];
    ["Offset of field: MorayAttend::kv_head_end"][::core::mem::offset_of!(MorayAttend, kv_head_end) - 104usize];
    ["Offset of field: MorayAttend::pages"][::core::mem::offset_of!(MorayAttend, pages) - 112usize];
};
const _: () = {
    ["Size of MorayCudaActivations"][::core::mem::size_of::<MorayCudaActivations>() - 40usize];
    ["Alignment of MorayCudaActivations"][::core::mem::align_of::<MorayCudaActivations>() - 8usize];
    ["Offset of field: MorayCudaActivations::m"][::core::mem::offset_of!(MorayCudaActivations, m) - 0usize];
    ["Offset of field: MorayCudaActivations::k"][::core::mem::offset_of!(MorayCudaActivations, k) - 8usize];
    ["Offset of field: MorayCudaActivations::scales"][::core::mem::offset_of!(MorayCudaActivations, scales) - 16usize];
    ["Offset of field: MorayCudaActivations::memory"][::core::mem::offset_of!(MorayCudaActivations, memory) - 24usize];
};
const _: () = {
    ["Size of MorayCudaQuantize"][::core::mem::size_of::<MorayCudaQuantize>() - 96usize];
    ["Alignment of MorayCudaQuantize"][::core::mem::align_of::<MorayCudaQuantize>() - 8usize];
    ["Offset of field: MorayCudaQuantize::struct_size"]
        [::core::mem::offset_of!(MorayCudaQuantize, struct_size) - 0usize];
    ["Offset of field: MorayCudaQuantize::source"][::core::mem::offset_of!(MorayCudaQuantize, source) - 4usize];
    ["Offset of field: MorayCudaQuantize::dtype"][::core::mem::offset_of!(MorayCudaQuantize, dtype) - 8usize];
    ["Offset of field: MorayCudaQuantize::activation"]
        [::core::mem::offset_of!(MorayCudaQuantize, activation) - 12usize];
    ["Offset of field: MorayCudaQuantize::eps"][::core::mem::offset_of!(MorayCudaQuantize, eps) - 16usize];
    ["Offset of field: MorayCudaQuantize::x"][::core::mem::offset_of!(MorayCudaQuantize, x) - 24usize];
    ["Offset of field: MorayCudaQuantize::norm_weight"]
        [::core::mem::offset_of!(MorayCudaQuantize, norm_weight) - 40usize];
    ["Offset of field: MorayCudaQuantize::out"][::core::mem::offset_of!(MorayCudaQuantize, out) - 56usize];
};
const _: () = {
    ["Size of MorayCudaWeight"][::core::mem::size_of::<MorayCudaWeight>() - 104usize];
    ["Alignment of MorayCudaWeight"][::core::mem::align_of::<MorayCudaWeight>() - 8usize];
    ["Offset of field: MorayCudaWeight::n"][::core::mem::offset_of!(MorayCudaWeight, n) - 0usize];
    ["Offset of field: MorayCudaWeight::k"][::core::mem::offset_of!(MorayCudaWeight, k) - 8usize];
    ["Offset of field: MorayCudaWeight::format"][::core::mem::offset_of!(MorayCudaWeight, format) - 16usize];
    ["Offset of field: MorayCudaWeight::layout_version"]
        [::core::mem::offset_of!(MorayCudaWeight, layout_version) - 32usize];
    ["Offset of field: MorayCudaWeight::sections"][::core::mem::offset_of!(MorayCudaWeight, sections) - 40usize];
};
const _: () = {
    ["Size of MorayCudaLinear"][::core::mem::size_of::<MorayCudaLinear>() - 216usize];
    ["Alignment of MorayCudaLinear"][::core::mem::align_of::<MorayCudaLinear>() - 8usize];
    ["Offset of field: MorayCudaLinear::struct_size"][::core::mem::offset_of!(MorayCudaLinear, struct_size) - 0usize];
    ["Offset of field: MorayCudaLinear::dtype"][::core::mem::offset_of!(MorayCudaLinear, dtype) - 4usize];
    ["Offset of field: MorayCudaLinear::weight"][::core::mem::offset_of!(MorayCudaLinear, weight) - 8usize];
    ["Offset of field: MorayCudaLinear::x"][::core::mem::offset_of!(MorayCudaLinear, x) - 112usize];
    ["Offset of field: MorayCudaLinear::bias"][::core::mem::offset_of!(MorayCudaLinear, bias) - 152usize];
    ["Offset of field: MorayCudaLinear::residual"][::core::mem::offset_of!(MorayCudaLinear, residual) - 168usize];
    ["Offset of field: MorayCudaLinear::y"][::core::mem::offset_of!(MorayCudaLinear, y) - 184usize];
    ["Offset of field: MorayCudaLinear::workspace"][::core::mem::offset_of!(MorayCudaLinear, workspace) - 200usize];
};
const _: () = {
    ["Size of MorayCudaProduct"][::core::mem::size_of::<MorayCudaProduct>() - 240usize];
    ["Alignment of MorayCudaProduct"][::core::mem::align_of::<MorayCudaProduct>() - 8usize];
    ["Offset of field: MorayCudaProduct::struct_size"][::core::mem::offset_of!(MorayCudaProduct, struct_size) - 0usize];
    ["Offset of field: MorayCudaProduct::dtype"][::core::mem::offset_of!(MorayCudaProduct, dtype) - 4usize];
    ["Offset of field: MorayCudaProduct::x_dtype"][::core::mem::offset_of!(MorayCudaProduct, x_dtype) - 8usize];
    ["Offset of field: MorayCudaProduct::source"][::core::mem::offset_of!(MorayCudaProduct, source) - 12usize];
    ["Offset of field: MorayCudaProduct::scales"][::core::mem::offset_of!(MorayCudaProduct, scales) - 16usize];
    ["Offset of field: MorayCudaProduct::gated"][::core::mem::offset_of!(MorayCudaProduct, gated) - 20usize];
    ["Offset of field: MorayCudaProduct::activation"][::core::mem::offset_of!(MorayCudaProduct, activation) - 24usize];
    ["Offset of field: MorayCudaProduct::eps"][::core::mem::offset_of!(MorayCudaProduct, eps) - 28usize];
    ["Offset of field: MorayCudaProduct::m"][::core::mem::offset_of!(MorayCudaProduct, m) - 32usize];
    ["Offset of field: MorayCudaProduct::weight"][::core::mem::offset_of!(MorayCudaProduct, weight) - 40usize];
    ["Offset of field: MorayCudaProduct::x"][::core::mem::offset_of!(MorayCudaProduct, x) - 144usize];
    ["Offset of field: MorayCudaProduct::norm_weight"]
        [::core::mem::offset_of!(MorayCudaProduct, norm_weight) - 160usize];
    ["Offset of field: MorayCudaProduct::bias"][::core::mem::offset_of!(MorayCudaProduct, bias) - 176usize];
    ["Offset of field: MorayCudaProduct::residual"][::core::mem::offset_of!(MorayCudaProduct, residual) - 192usize];
    ["Offset of field: MorayCudaProduct::y"][::core::mem::offset_of!(MorayCudaProduct, y) - 208usize];
    ["Offset of field: MorayCudaProduct::workspace"][::core::mem::offset_of!(MorayCudaProduct, workspace) - 224usize];
};
const _: () = {
    ["Size of MorayCudaRmsNorm"][::core::mem::size_of::<MorayCudaRmsNorm>() - 96usize];
    ["Alignment of MorayCudaRmsNorm"][::core::mem::align_of::<MorayCudaRmsNorm>() - 8usize];
    ["Offset of field: MorayCudaRmsNorm::struct_size"][::core::mem::offset_of!(MorayCudaRmsNorm, struct_size) - 0usize];
    ["Offset of field: MorayCudaRmsNorm::eps"][::core::mem::offset_of!(MorayCudaRmsNorm, eps) - 4usize];
    ["Offset of field: MorayCudaRmsNorm::m"][::core::mem::offset_of!(MorayCudaRmsNorm, m) - 8usize];
    ["Offset of field: MorayCudaRmsNorm::heads"][::core::mem::offset_of!(MorayCudaRmsNorm, heads) - 16usize];
    ["Offset of field: MorayCudaRmsNorm::k"][::core::mem::offset_of!(MorayCudaRmsNorm, k) - 24usize];
    ["Offset of field: MorayCudaRmsNorm::x"][::core::mem::offset_of!(MorayCudaRmsNorm, x) - 32usize];
    ["Offset of field: MorayCudaRmsNorm::x_stride"][::core::mem::offset_of!(MorayCudaRmsNorm, x_stride) - 48usize];
    ["Offset of field: MorayCudaRmsNorm::weight"][::core::mem::offset_of!(MorayCudaRmsNorm, weight) - 56usize];
    ["Offset of field: MorayCudaRmsNorm::y"][::core::mem::offset_of!(MorayCudaRmsNorm, y) - 72usize];
    ["Offset of field: MorayCudaRmsNorm::y_stride"][::core::mem::offset_of!(MorayCudaRmsNorm, y_stride) - 88usize];
};
const _: () = {
    ["Size of MorayCudaSelect"][::core::mem::size_of::<MorayCudaSelect>() - 96usize];
    ["Alignment of MorayCudaSelect"][::core::mem::align_of::<MorayCudaSelect>() - 8usize];
    ["Offset of field: MorayCudaSelect::struct_size"][::core::mem::offset_of!(MorayCudaSelect, struct_size) - 0usize];
    ["Offset of field: MorayCudaSelect::kind"][::core::mem::offset_of!(MorayCudaSelect, kind) - 4usize];
    ["Offset of field: MorayCudaSelect::threshold"][::core::mem::offset_of!(MorayCudaSelect, threshold) - 8usize];
    ["Offset of field: MorayCudaSelect::k"][::core::mem::offset_of!(MorayCudaSelect, k) - 16usize];
    ["Offset of field: MorayCudaSelect::tokens"][::core::mem::offset_of!(MorayCudaSelect, tokens) - 24usize];
    ["Offset of field: MorayCudaSelect::n"][::core::mem::offset_of!(MorayCudaSelect, n) - 32usize];
    ["Offset of field: MorayCudaSelect::values"][::core::mem::offset_of!(MorayCudaSelect, values) - 40usize];
    ["Offset of field: MorayCudaSelect::stride"][::core::mem::offset_of!(MorayCudaSelect, stride) - 56usize];
    ["Offset of field: MorayCudaSelect::channel_scale"]
        [::core::mem::offset_of!(MorayCudaSelect, channel_scale) - 64usize];
    ["Offset of field: MorayCudaSelect::masks"][::core::mem::offset_of!(MorayCudaSelect, masks) - 80usize];
};
const _: () = {
    ["Size of MorayCudaUnion"][::core::mem::size_of::<MorayCudaUnion>() - 72usize];
    ["Alignment of MorayCudaUnion"][::core::mem::align_of::<MorayCudaUnion>() - 8usize];
    ["Offset of field: MorayCudaUnion::struct_size"][::core::mem::offset_of!(MorayCudaUnion, struct_size) - 0usize];
    ["Offset of field: MorayCudaUnion::tokens"][::core::mem::offset_of!(MorayCudaUnion, tokens) - 8usize];
    ["Offset of field: MorayCudaUnion::n"][::core::mem::offset_of!(MorayCudaUnion, n) - 16usize];
    ["Offset of field: MorayCudaUnion::masks"][::core::mem::offset_of!(MorayCudaUnion, masks) - 24usize];
    ["Offset of field: MorayCudaUnion::list"][::core::mem::offset_of!(MorayCudaUnion, list) - 40usize];
    ["Offset of field: MorayCudaUnion::count"][::core::mem::offset_of!(MorayCudaUnion, count) - 56usize];
};
const _: () = {
    ["Size of MorayCudaRows"][::core::mem::size_of::<MorayCudaRows>() - 56usize];
    ["Alignment of MorayCudaRows"][::core::mem::align_of::<MorayCudaRows>() - 8usize];
    ["Offset of field: MorayCudaRows::rows"][::core::mem::offset_of!(MorayCudaRows, rows) - 0usize];
    ["Offset of field: MorayCudaRows::scales"][::core::mem::offset_of!(MorayCudaRows, scales) - 16usize];
    ["Offset of field: MorayCudaRows::bias"][::core::mem::offset_of!(MorayCudaRows, bias) - 32usize];
    ["Offset of field: MorayCudaRows::group_size"][::core::mem::offset_of!(MorayCudaRows, group_size) - 48usize];
    ["Offset of field: MorayCudaRows::offset"][::core::mem::offset_of!(MorayCudaRows, offset) - 52usize];
};
const _: () = {
    ["Size of MorayCudaMlpWeights"][::core::mem::size_of::<MorayCudaMlpWeights>() - 200usize];
    ["Alignment of MorayCudaMlpWeights"][::core::mem::align_of::<MorayCudaMlpWeights>() - 8usize];
    ["Offset of field: MorayCudaMlpWeights::shape"][::core::mem::offset_of!(MorayCudaMlpWeights, shape) - 0usize];
    ["Offset of field: MorayCudaMlpWeights::format"][::core::mem::offset_of!(MorayCudaMlpWeights, format) - 24usize];
    ["Offset of field: MorayCudaMlpWeights::gate"][::core::mem::offset_of!(MorayCudaMlpWeights, gate) - 32usize];
    ["Offset of field: MorayCudaMlpWeights::up"][::core::mem::offset_of!(MorayCudaMlpWeights, up) - 88usize];
    ["Offset of field: MorayCudaMlpWeights::down"][::core::mem::offset_of!(MorayCudaMlpWeights, down) - 144usize];
};
const _: () = {
    ["Size of MorayCudaSelection"][::core::mem::size_of::<MorayCudaSelection>() - 88usize];
    ["Alignment of MorayCudaSelection"][::core::mem::align_of::<MorayCudaSelection>() - 8usize];
    ["Offset of field: MorayCudaSelection::kind"][::core::mem::offset_of!(MorayCudaSelection, kind) - 0usize];
    ["Offset of field: MorayCudaSelection::score"][::core::mem::offset_of!(MorayCudaSelection, score) - 4usize];
    ["Offset of field: MorayCudaSelection::list"][::core::mem::offset_of!(MorayCudaSelection, list) - 8usize];
    ["Offset of field: MorayCudaSelection::count"][::core::mem::offset_of!(MorayCudaSelection, count) - 24usize];
    ["Offset of field: MorayCudaSelection::masks"][::core::mem::offset_of!(MorayCudaSelection, masks) - 40usize];
    ["Offset of field: MorayCudaSelection::channel_scale"]
        [::core::mem::offset_of!(MorayCudaSelection, channel_scale) - 56usize];
    ["Offset of field: MorayCudaSelection::threshold"]
        [::core::mem::offset_of!(MorayCudaSelection, threshold) - 72usize];
    ["Offset of field: MorayCudaSelection::k"][::core::mem::offset_of!(MorayCudaSelection, k) - 80usize];
};
const _: () = {
    ["Size of MorayCudaMlp"][::core::mem::size_of::<MorayCudaMlp>() - 416usize];
    ["Alignment of MorayCudaMlp"][::core::mem::align_of::<MorayCudaMlp>() - 8usize];
    ["Offset of field: MorayCudaMlp::struct_size"][::core::mem::offset_of!(MorayCudaMlp, struct_size) - 0usize];
    ["Offset of field: MorayCudaMlp::x_dtype"][::core::mem::offset_of!(MorayCudaMlp, x_dtype) - 4usize];
    ["Offset of field: MorayCudaMlp::y_dtype"][::core::mem::offset_of!(MorayCudaMlp, y_dtype) - 8usize];
    ["Offset of field: MorayCudaMlp::weights"][::core::mem::offset_of!(MorayCudaMlp, weights) - 16usize];
    ["Offset of field: MorayCudaMlp::selection"][::core::mem::offset_of!(MorayCudaMlp, selection) - 216usize];
    ["Offset of field: MorayCudaMlp::tokens"][::core::mem::offset_of!(MorayCudaMlp, tokens) - 304usize];
    ["Offset of field: MorayCudaMlp::max_tokens"][::core::mem::offset_of!(MorayCudaMlp, max_tokens) - 312usize];
    ["Offset of field: MorayCudaMlp::x"][::core::mem::offset_of!(MorayCudaMlp, x) - 320usize];
    ["Offset of field: MorayCudaMlp::residual"][::core::mem::offset_of!(MorayCudaMlp, residual) - 336usize];
    ["Offset of field: MorayCudaMlp::y"][::core::mem::offset_of!(MorayCudaMlp, y) - 352usize];
    ["Offset of field: MorayCudaMlp::kept"][::core::mem::offset_of!(MorayCudaMlp, kept) - 368usize];
    ["Offset of field: MorayCudaMlp::kept_count"][::core::mem::offset_of!(MorayCudaMlp, kept_count) - 384usize];
    ["Offset of field: MorayCudaMlp::workspace"][::core::mem::offset_of!(MorayCudaMlp, workspace) - 400usize];
};
const _: () = {
    ["Size of MorayCudaMlpGateUp"][::core::mem::size_of::<MorayCudaMlpGateUp>() - 344usize];
    ["Alignment of MorayCudaMlpGateUp"][::core::mem::align_of::<MorayCudaMlpGateUp>() - 8usize];
    ["Offset of field: MorayCudaMlpGateUp::struct_size"]
        [::core::mem::offset_of!(MorayCudaMlpGateUp, struct_size) - 0usize];
    ["Offset of field: MorayCudaMlpGateUp::x_dtype"][::core::mem::offset_of!(MorayCudaMlpGateUp, x_dtype) - 4usize];
    ["Offset of field: MorayCudaMlpGateUp::gate_is_given"]
        [::core::mem::offset_of!(MorayCudaMlpGateUp, gate_is_given) - 8usize];
    ["Offset of field: MorayCudaMlpGateUp::weights"][::core::mem::offset_of!(MorayCudaMlpGateUp, weights) - 16usize];
    ["Offset of field: MorayCudaMlpGateUp::list"][::core::mem::offset_of!(MorayCudaMlpGateUp, list) - 216usize];
    ["Offset of field: MorayCudaMlpGateUp::count"][::core::mem::offset_of!(MorayCudaMlpGateUp, count) - 232usize];
    ["Offset of field: MorayCudaMlpGateUp::masks"][::core::mem::offset_of!(MorayCudaMlpGateUp, masks) - 248usize];
    ["Offset of field: MorayCudaMlpGateUp::tokens"][::core::mem::offset_of!(MorayCudaMlpGateUp, tokens) - 264usize];
    ["Offset of field: MorayCudaMlpGateUp::max_tokens"]
        [::core::mem::offset_of!(MorayCudaMlpGateUp, max_tokens) - 272usize];
    ["Offset of field: MorayCudaMlpGateUp::x"][::core::mem::offset_of!(MorayCudaMlpGateUp, x) - 280usize];
    ["Offset of field: MorayCudaMlpGateUp::gate"][::core::mem::offset_of!(MorayCudaMlpGateUp, gate) - 296usize];
    ["Offset of field: MorayCudaMlpGateUp::hidden"][::core::mem::offset_of!(MorayCudaMlpGateUp, hidden) - 312usize];
    ["Offset of field: MorayCudaMlpGateUp::workspace"]
        [::core::mem::offset_of!(MorayCudaMlpGateUp, workspace) - 328usize];
};
const _: () = {
    ["Size of MorayCudaMlpDown"][::core::mem::size_of::<MorayCudaMlpDown>() - 320usize];
    ["Alignment of MorayCudaMlpDown"][::core::mem::align_of::<MorayCudaMlpDown>() - 8usize];
    ["Offset of field: MorayCudaMlpDown::struct_size"][::core::mem::offset_of!(MorayCudaMlpDown, struct_size) - 0usize];
    ["Offset of field: MorayCudaMlpDown::y_dtype"][::core::mem::offset_of!(MorayCudaMlpDown, y_dtype) - 4usize];
    ["Offset of field: MorayCudaMlpDown::weights"][::core::mem::offset_of!(MorayCudaMlpDown, weights) - 8usize];
    ["Offset of field: MorayCudaMlpDown::list"][::core::mem::offset_of!(MorayCudaMlpDown, list) - 208usize];
    ["Offset of field: MorayCudaMlpDown::count"][::core::mem::offset_of!(MorayCudaMlpDown, count) - 224usize];
    ["Offset of field: MorayCudaMlpDown::tokens"][::core::mem::offset_of!(MorayCudaMlpDown, tokens) - 240usize];
    ["Offset of field: MorayCudaMlpDown::max_tokens"][::core::mem::offset_of!(MorayCudaMlpDown, max_tokens) - 248usize];
    ["Offset of field: MorayCudaMlpDown::hidden"][::core::mem::offset_of!(MorayCudaMlpDown, hidden) - 256usize];
    ["Offset of field: MorayCudaMlpDown::residual"][::core::mem::offset_of!(MorayCudaMlpDown, residual) - 272usize];
    ["Offset of field: MorayCudaMlpDown::y"][::core::mem::offset_of!(MorayCudaMlpDown, y) - 288usize];
    ["Offset of field: MorayCudaMlpDown::workspace"][::core::mem::offset_of!(MorayCudaMlpDown, workspace) - 304usize];
};
const _: () = {
    ["Size of MorayCudaByInput"][::core::mem::size_of::<MorayCudaByInput>() - 128usize];
    ["Alignment of MorayCudaByInput"][::core::mem::align_of::<MorayCudaByInput>() - 8usize];
    ["Offset of field: MorayCudaByInput::struct_size"][::core::mem::offset_of!(MorayCudaByInput, struct_size) - 0usize];
    ["Offset of field: MorayCudaByInput::dtype"][::core::mem::offset_of!(MorayCudaByInput, dtype) - 4usize];
    ["Offset of field: MorayCudaByInput::threshold"][::core::mem::offset_of!(MorayCudaByInput, threshold) - 8usize];
    ["Offset of field: MorayCudaByInput::m"][::core::mem::offset_of!(MorayCudaByInput, m) - 16usize];
    ["Offset of field: MorayCudaByInput::n"][::core::mem::offset_of!(MorayCudaByInput, n) - 24usize];
    ["Offset of field: MorayCudaByInput::k"][::core::mem::offset_of!(MorayCudaByInput, k) - 32usize];
    ["Offset of field: MorayCudaByInput::w"][::core::mem::offset_of!(MorayCudaByInput, w) - 40usize];
    ["Offset of field: MorayCudaByInput::row_bytes"][::core::mem::offset_of!(MorayCudaByInput, row_bytes) - 56usize];
    ["Offset of field: MorayCudaByInput::x"][::core::mem::offset_of!(MorayCudaByInput, x) - 64usize];
    ["Offset of field: MorayCudaByInput::bias"][::core::mem::offset_of!(MorayCudaByInput, bias) - 80usize];
    ["Offset of field: MorayCudaByInput::residual"][::core::mem::offset_of!(MorayCudaByInput, residual) - 96usize];
    ["Offset of field: MorayCudaByInput::y"][::core::mem::offset_of!(MorayCudaByInput, y) - 112usize];
};
const _: () = {
    ["Size of MorayCudaInputRows"][::core::mem::size_of::<MorayCudaInputRows>() - 56usize];
    ["Alignment of MorayCudaInputRows"][::core::mem::align_of::<MorayCudaInputRows>() - 8usize];
    ["Offset of field: MorayCudaInputRows::n"][::core::mem::offset_of!(MorayCudaInputRows, n) - 0usize];
    ["Offset of field: MorayCudaInputRows::k"][::core::mem::offset_of!(MorayCudaInputRows, k) - 8usize];
    ["Offset of field: MorayCudaInputRows::rows"][::core::mem::offset_of!(MorayCudaInputRows, rows) - 16usize];
    ["Offset of field: MorayCudaInputRows::scales"][::core::mem::offset_of!(MorayCudaInputRows, scales) - 32usize];
    ["Offset of field: MorayCudaInputRows::group_size"]
        [::core::mem::offset_of!(MorayCudaInputRows, group_size) - 48usize];
    ["Offset of field: MorayCudaInputRows::offset"][::core::mem::offset_of!(MorayCudaInputRows, offset) - 52usize];
};
const _: () = {
    ["Size of MorayCudaByInputFourBit"][::core::mem::size_of::<MorayCudaByInputFourBit>() - 168usize];
    ["Alignment of MorayCudaByInputFourBit"][::core::mem::align_of::<MorayCudaByInputFourBit>() - 8usize];
    ["Offset of field: MorayCudaByInputFourBit::struct_size"]
        [::core::mem::offset_of!(MorayCudaByInputFourBit, struct_size) - 0usize];
    ["Offset of field: MorayCudaByInputFourBit::threshold"]
        [::core::mem::offset_of!(MorayCudaByInputFourBit, threshold) - 4usize];
    ["Offset of field: MorayCudaByInputFourBit::m"][::core::mem::offset_of!(MorayCudaByInputFourBit, m) - 8usize];
    ["Offset of field: MorayCudaByInputFourBit::weight"]
        [::core::mem::offset_of!(MorayCudaByInputFourBit, weight) - 16usize];
    ["Offset of field: MorayCudaByInputFourBit::x"][::core::mem::offset_of!(MorayCudaByInputFourBit, x) - 72usize];
    ["Offset of field: MorayCudaByInputFourBit::bias"]
        [::core::mem::offset_of!(MorayCudaByInputFourBit, bias) - 88usize];
    ["Offset of field: MorayCudaByInputFourBit::residual"]
        [::core::mem::offset_of!(MorayCudaByInputFourBit, residual) - 104usize];
    ["Offset of field: MorayCudaByInputFourBit::y"][::core::mem::offset_of!(MorayCudaByInputFourBit, y) - 120usize];
    ["Offset of field: MorayCudaByInputFourBit::workspace"]
        [::core::mem::offset_of!(MorayCudaByInputFourBit, workspace) - 136usize];
    ["Offset of field: MorayCudaByInputFourBit::counters"]
        [::core::mem::offset_of!(MorayCudaByInputFourBit, counters) - 152usize];
};
const _: () = {
    ["Size of MorayCudaSpans"][::core::mem::size_of::<MorayCudaSpans>() - 112usize];
    ["Alignment of MorayCudaSpans"][::core::mem::align_of::<MorayCudaSpans>() - 8usize];
    ["Offset of field: MorayCudaSpans::records"][::core::mem::offset_of!(MorayCudaSpans, records) - 0usize];
    ["Offset of field: MorayCudaSpans::n_spans"][::core::mem::offset_of!(MorayCudaSpans, n_spans) - 16usize];
    ["Offset of field: MorayCudaSpans::longest"][::core::mem::offset_of!(MorayCudaSpans, longest) - 24usize];
    ["Offset of field: MorayCudaSpans::rows"][::core::mem::offset_of!(MorayCudaSpans, rows) - 32usize];
    ["Offset of field: MorayCudaSpans::heads"][::core::mem::offset_of!(MorayCudaSpans, heads) - 40usize];
    ["Offset of field: MorayCudaSpans::list"][::core::mem::offset_of!(MorayCudaSpans, list) - 48usize];
    ["Offset of field: MorayCudaSpans::counts"][::core::mem::offset_of!(MorayCudaSpans, counts) - 64usize];
    ["Offset of field: MorayCudaSpans::width"][::core::mem::offset_of!(MorayCudaSpans, width) - 80usize];
    ["Offset of field: MorayCudaSpans::n_q_heads"][::core::mem::offset_of!(MorayCudaSpans, n_q_heads) - 88usize];
    ["Offset of field: MorayCudaSpans::n_kv_heads"][::core::mem::offset_of!(MorayCudaSpans, n_kv_heads) - 96usize];
    ["Offset of field: MorayCudaSpans::head_dim"][::core::mem::offset_of!(MorayCudaSpans, head_dim) - 104usize];
};
const _: () = {
    ["Size of MorayCudaWriteKv"][::core::mem::size_of::<MorayCudaWriteKv>() - 400usize];
    ["Alignment of MorayCudaWriteKv"][::core::mem::align_of::<MorayCudaWriteKv>() - 8usize];
    ["Offset of field: MorayCudaWriteKv::struct_size"][::core::mem::offset_of!(MorayCudaWriteKv, struct_size) - 0usize];
    ["Offset of field: MorayCudaWriteKv::dtype"][::core::mem::offset_of!(MorayCudaWriteKv, dtype) - 4usize];
    ["Offset of field: MorayCudaWriteKv::policy"][::core::mem::offset_of!(MorayCudaWriteKv, policy) - 8usize];
    ["Offset of field: MorayCudaWriteKv::kv"][::core::mem::offset_of!(MorayCudaWriteKv, kv) - 16usize];
    ["Offset of field: MorayCudaWriteKv::spans"][::core::mem::offset_of!(MorayCudaWriteKv, spans) - 184usize];
    ["Offset of field: MorayCudaWriteKv::k"][::core::mem::offset_of!(MorayCudaWriteKv, k) - 296usize];
    ["Offset of field: MorayCudaWriteKv::v"][::core::mem::offset_of!(MorayCudaWriteKv, v) - 312usize];
    ["Offset of field: MorayCudaWriteKv::kv_stride"][::core::mem::offset_of!(MorayCudaWriteKv, kv_stride) - 328usize];
    ["Offset of field: MorayCudaWriteKv::q"][::core::mem::offset_of!(MorayCudaWriteKv, q) - 336usize];
    ["Offset of field: MorayCudaWriteKv::q_stride"][::core::mem::offset_of!(MorayCudaWriteKv, q_stride) - 352usize];
    ["Offset of field: MorayCudaWriteKv::q_out"][::core::mem::offset_of!(MorayCudaWriteKv, q_out) - 360usize];
    ["Offset of field: MorayCudaWriteKv::rope"][::core::mem::offset_of!(MorayCudaWriteKv, rope) - 376usize];
    ["Offset of field: MorayCudaWriteKv::context"][::core::mem::offset_of!(MorayCudaWriteKv, context) - 392usize];
};
const _: () = {
    ["Size of MorayCudaAttend"][::core::mem::size_of::<MorayCudaAttend>() - 344usize];
    ["Alignment of MorayCudaAttend"][::core::mem::align_of::<MorayCudaAttend>() - 8usize];
    ["Offset of field: MorayCudaAttend::struct_size"][::core::mem::offset_of!(MorayCudaAttend, struct_size) - 0usize];
    ["Offset of field: MorayCudaAttend::out_dtype"][::core::mem::offset_of!(MorayCudaAttend, out_dtype) - 4usize];
    ["Offset of field: MorayCudaAttend::kv"][::core::mem::offset_of!(MorayCudaAttend, kv) - 8usize];
    ["Offset of field: MorayCudaAttend::spans"][::core::mem::offset_of!(MorayCudaAttend, spans) - 176usize];
    ["Offset of field: MorayCudaAttend::max_spans"][::core::mem::offset_of!(MorayCudaAttend, max_spans) - 288usize];
    ["Offset of field: MorayCudaAttend::q"][::core::mem::offset_of!(MorayCudaAttend, q) - 296usize];
    ["Offset of field: MorayCudaAttend::out"][::core::mem::offset_of!(MorayCudaAttend, out) - 312usize];
    ["Offset of field: MorayCudaAttend::workspace"][::core::mem::offset_of!(MorayCudaAttend, workspace) - 328usize];
};
const _: () = {
    ["Size of MorayCudaWriteAttend"][::core::mem::size_of::<MorayCudaWriteAttend>() - 440usize];
    ["Alignment of MorayCudaWriteAttend"][::core::mem::align_of::<MorayCudaWriteAttend>() - 8usize];
    ["Offset of field: MorayCudaWriteAttend::struct_size"]
        [::core::mem::offset_of!(MorayCudaWriteAttend, struct_size) - 0usize];
    ["Offset of field: MorayCudaWriteAttend::dtype"][::core::mem::offset_of!(MorayCudaWriteAttend, dtype) - 4usize];
    ["Offset of field: MorayCudaWriteAttend::out_dtype"]
        [::core::mem::offset_of!(MorayCudaWriteAttend, out_dtype) - 8usize];
    ["Offset of field: MorayCudaWriteAttend::policy"][::core::mem::offset_of!(MorayCudaWriteAttend, policy) - 12usize];
    ["Offset of field: MorayCudaWriteAttend::kv"][::core::mem::offset_of!(MorayCudaWriteAttend, kv) - 16usize];
    ["Offset of field: MorayCudaWriteAttend::spans"][::core::mem::offset_of!(MorayCudaWriteAttend, spans) - 184usize];
    ["Offset of field: MorayCudaWriteAttend::max_spans"]
        [::core::mem::offset_of!(MorayCudaWriteAttend, max_spans) - 296usize];
    ["Offset of field: MorayCudaWriteAttend::q"][::core::mem::offset_of!(MorayCudaWriteAttend, q) - 304usize];
    ["Offset of field: MorayCudaWriteAttend::q_stride"]
        [::core::mem::offset_of!(MorayCudaWriteAttend, q_stride) - 320usize];
    ["Offset of field: MorayCudaWriteAttend::k"][::core::mem::offset_of!(MorayCudaWriteAttend, k) - 328usize];
    ["Offset of field: MorayCudaWriteAttend::v"][::core::mem::offset_of!(MorayCudaWriteAttend, v) - 344usize];
    ["Offset of field: MorayCudaWriteAttend::kv_stride"]
        [::core::mem::offset_of!(MorayCudaWriteAttend, kv_stride) - 360usize];
    ["Offset of field: MorayCudaWriteAttend::rope"][::core::mem::offset_of!(MorayCudaWriteAttend, rope) - 368usize];
    ["Offset of field: MorayCudaWriteAttend::context"]
        [::core::mem::offset_of!(MorayCudaWriteAttend, context) - 384usize];
    ["Offset of field: MorayCudaWriteAttend::out"][::core::mem::offset_of!(MorayCudaWriteAttend, out) - 392usize];
    ["Offset of field: MorayCudaWriteAttend::workspace"]
        [::core::mem::offset_of!(MorayCudaWriteAttend, workspace) - 408usize];
    ["Offset of field: MorayCudaWriteAttend::counters"]
        [::core::mem::offset_of!(MorayCudaWriteAttend, counters) - 424usize];
};
const _: () = {
    ["Size of MorayCudaSpan"][::core::mem::size_of::<MorayCudaSpan>() - 16usize];
    ["Alignment of MorayCudaSpan"][::core::mem::align_of::<MorayCudaSpan>() - 4usize];
    ["Offset of field: MorayCudaSpan::slot"][::core::mem::offset_of!(MorayCudaSpan, slot) - 0usize];
    ["Offset of field: MorayCudaSpan::start"][::core::mem::offset_of!(MorayCudaSpan, start) - 4usize];
    ["Offset of field: MorayCudaSpan::len"][::core::mem::offset_of!(MorayCudaSpan, len) - 8usize];
    ["Offset of field: MorayCudaSpan::first_row"][::core::mem::offset_of!(MorayCudaSpan, first_row) - 12usize];
};

const _: () = {
    assert!(size_of::<MorayStatus>() == size_of::<core::ffi::c_uint>());
    assert!(MORAY_ABI_VERSION == 1);
    assert!(MORAY_LAYOUT_VERSION == 1);
    assert!(MORAY_F32 == 0);
    assert!(MORAY_F16 == 1);
    assert!(MORAY_BF16 == 2);
    assert!(MORAY_ARCH_NATIVE == 0);
    assert!(MORAY_ARCH_PORTABLE == 1);
    assert!(MORAY_ARCH_AVX2 == 2);
    assert!(MORAY_ARCH_AVX_VNNI == 3);
    assert!(MORAY_ARCH_AVX512_VNNI == 4);
    assert!(MORAY_ARCH_CUDA == 1000);
    assert!(MORAY_GROUP_SCALE_F16 == 1);
    assert!(MORAY_GROUP_SCALE_INTEGER == 2);
    assert!(MORAY_GROUP_SCALE_QQQ == 3);
    assert!(MORAY_OFFSET_NONE == 0);
    assert!(MORAY_OFFSET_F16 == 1);
    assert!(MORAY_OFFSET_ZERO_POINT == 2);
    assert!(MORAY_OP_LINEAR == 1);
    assert!(MORAY_OP_SPARSE_MLP == 2);
    assert!(MORAY_OP_ATTENTION == 3);
    assert!(MORAY_OP_BY_INPUT == 4);
    assert!(MORAY_BLOCK_Q4_0 == 2);
    assert!(MORAY_BLOCK_Q4_1 == 3);
    assert!(MORAY_BLOCK_Q5_0 == 6);
    assert!(MORAY_BLOCK_Q5_1 == 7);
    assert!(MORAY_BLOCK_Q8_0 == 8);
    assert!(MORAY_LAYOUT_GPTQ == 1);
    assert!(MORAY_LAYOUT_GPTQ_V2 == 2);
    assert!(MORAY_LAYOUT_GPTQ_BY_WORD == 3);
    assert!(MORAY_LAYOUT_AWQ == 4);
    assert!(MORAY_LAYOUT_COMPRESSED_TENSORS == 5);
    assert!(MORAY_ACT_SCALES_TOKEN == 0);
    assert!(MORAY_ACT_SCALES_FINE == 1);
    assert!(MORAY_SELECT_ALL == 0);
    assert!(MORAY_SELECT_LIST == 1);
    assert!(MORAY_SELECT_MASKS == 2);
    assert!(MORAY_SELECT_THRESHOLD == 3);
    assert!(MORAY_SELECT_TOP_K == 4);
    assert!(MORAY_SELECT_UNION == 5);
    assert!(MORAY_SCORE_INPUT == 0);
    assert!(MORAY_SCORE_GATE == 1);
    assert!(MORAY_SCORE_HIDDEN == 2);
    assert!(MORAY_ACTIVATION_SILU == 0);
    assert!(MORAY_ACTIVATION_RELU == 1);
    assert!(MORAY_INT8 == 3);
    assert!(MORAY_HEADS_ALL == 0);
    assert!(MORAY_HEADS_LIST == 1);
    assert!(MORAY_HEADS_GROUPS == 2);
    assert!(MORAY_HEADS_MASK == 3);
    assert!(MORAY_KV_WRITE_ALL == 0);
    assert!(MORAY_KV_HOLE == 1);
    assert!(MORAY_KV_ZERO == 2);
    assert!(MORAY_SOURCE_PLAIN == 0);
    assert!(MORAY_SOURCE_RMS_NORM == 1);
    assert!(MORAY_SOURCE_GATED == 2);
    assert!(MORAY_ROWS_F16 == 1);
    assert!(MORAY_ROWS_BF16 == 2);
    assert!(MORAY_ROWS_FOUR_BIT == 3);
    assert!(MORAY_KV_KEEP == 3);
    assert!(MorayStatus::Ok as u32 == 0);
    assert!(MorayStatus::Length as u32 == 1);
    assert!(MorayStatus::Shape as u32 == 2);
    assert!(MorayStatus::Index as u32 == 3);
    assert!(MorayStatus::NotIncreasing as u32 == 4);
    assert!(MorayStatus::Value as u32 == 5);
    assert!(MorayStatus::Unsupported as u32 == 6);
    assert!(MorayStatus::DriverAbsent as u32 == 7);
    assert!(MorayStatus::DriverTooOld as u32 == 8);
    assert!(MorayStatus::KernelsNotBuilt as u32 == 9);
    assert!(MorayStatus::UnsupportedArchitecture as u32 == 10);
    assert!(MorayStatus::OutOfMemory as u32 == 11);
    assert!(MorayStatus::Misaligned as u32 == 12);
    assert!(MorayStatus::Launch as u32 == 13);
    assert!(MorayStatus::Driver as u32 == 14);
    assert!(MorayStatus::Null as u32 == 15);
    assert!(MorayStatus::Version as u32 == 16);
    assert!(MorayStatus::Overlap as u32 == 17);
    assert!(MorayStatus::Busy as u32 == 18);
    assert!(MorayStatus::Internal as u32 == 19);
    assert!(MorayStatus::Device as u32 == 20);
};

mod header {
    use moray_c::*;

    unsafe extern "C" {
        pub fn moray_abi_version() -> u32;
    }
    unsafe extern "C" {
        pub fn moray_version() -> *const ::core::ffi::c_char;
    }
    unsafe extern "C" {
        pub fn moray_init(abi_version: u32) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_last_error() -> *const ::core::ffi::c_char;
    }
    unsafe extern "C" {
        pub fn moray_cpu_create(threads: usize, arch: MorayArch, out: *mut *mut MorayCpu) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cpu_create_openmp(
            threads: usize,
            gomp_parallel: *const ::core::ffi::c_void,
            arch: MorayArch,
            out: *mut *mut MorayCpu,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cpu_destroy(cpu: *mut MorayCpu);
    }
    unsafe extern "C" {
        pub fn moray_cpu_describe(cpu: *const MorayCpu, threads: *mut usize, arch: *mut MorayArch) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_section_bytes(
            format: *const MorayFormat,
            n: usize,
            k: usize,
            out: *mut MoraySectionBytes,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_supports(query: *const MorayQuery, out: *mut MoraySupport) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_quantize(
            w: MorayBytes,
            dtype: MorayDtype,
            n: usize,
            k: usize,
            format: *const MorayFormat,
            out: *mut *mut MorayQuantized,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_quantized_create(
            parts: *const MoraySections,
            n: usize,
            k: usize,
            format: *const MorayFormat,
            out: *mut *mut MorayQuantized,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_quantized_destroy(weight: *mut MorayQuantized);
    }
    unsafe extern "C" {
        pub fn moray_quantized_describe(
            weight: *const MorayQuantized,
            n: *mut usize,
            k: *mut usize,
            format: *mut MorayFormat,
            parts: *mut MoraySections,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_quantized_dequantize(weight: *const MorayQuantized, w: MorayBytesMut) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_import_blocks(
            block: MorayBlock,
            blocks: MorayBytes,
            n: usize,
            k: usize,
            out: *mut *mut MorayQuantized,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_import_exported(arrays: *const MorayExported, out: *mut *mut MorayQuantized) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_import_qqq(
            codes: MorayBytes,
            channel_scale: MorayBytes,
            group_scale: MorayBytes,
            n: usize,
            k: usize,
            out: *mut *mut MorayQuantized,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_quantized_order(weight: *const MorayQuantized, order: *mut MorayBytes) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_weight_pack(weight: *const MorayQuantized, out: *mut *mut MorayWeight) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_pack(weight: *const MorayQuantized, memory: *const MoraySectionsMut) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_weight_borrow(
            sections: *const MoraySections,
            n: usize,
            k: usize,
            format: *const MorayFormat,
            out: *mut *mut MorayWeight,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_weight_destroy(weight: *mut MorayWeight);
    }
    unsafe extern "C" {
        pub fn moray_weight_describe(
            weight: *const MorayWeight,
            n: *mut usize,
            k: *mut usize,
            format: *mut MorayFormat,
            sections: *mut MoraySections,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_weight_unpack(weight: *const MorayWeight, out: *mut *mut MorayQuantized) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_weight_row(weight: *const MorayWeight, row: usize, values: MorayBytesMut) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_activations_create(
            max_m: usize,
            max_k: usize,
            scales: MorayActScales,
            out: *mut *mut MorayActivations,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_activations_destroy(activations: *mut MorayActivations);
    }
    unsafe extern "C" {
        pub fn moray_activations_quantize(
            cpu: *const MorayCpu,
            activations: *mut MorayActivations,
            x: MorayBytes,
            dtype: MorayDtype,
            m: usize,
            k: usize,
            order: MorayBytes,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_activations_set(
            activations: *mut MorayActivations,
            codes: MorayBytes,
            scale: MorayBytes,
            m: usize,
            k: usize,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_activations_describe(
            activations: *const MorayActivations,
            out: *mut MorayActivationsView,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_linear(cpu: *const MorayCpu, call: *const MorayLinear) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_mlp_create(
            shape: *const MorayMlpShape,
            dtype: MorayDtype,
            gate: MorayBytes,
            up: MorayBytes,
            down: MorayBytes,
            biases: *const MorayMlpBiases,
            out: *mut *mut MorayMlp,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_mlp_create_quantized(
            shape: *const MorayMlpShape,
            gate: *const MorayQuantized,
            up: *const MorayQuantized,
            down: *const MorayQuantized,
            biases: *const MorayMlpBiases,
            out: *mut *mut MorayMlp,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_mlp_destroy(mlp: *mut MorayMlp);
    }
    unsafe extern "C" {
        pub fn moray_mlp_workspace_create(
            mlp: *const MorayMlp,
            max_tokens: usize,
            out: *mut *mut MorayMlpWorkspace,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_mlp_workspace_destroy(workspace: *mut MorayMlpWorkspace);
    }
    unsafe extern "C" {
        pub fn moray_mlp_forward(cpu: *const MorayCpu, call: *const MorayMlpForward) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_mlp_kept(workspace: *const MorayMlpWorkspace, kept: *mut MorayBytes) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_mlp_gate_up(cpu: *const MorayCpu, call: *const MorayMlpGateUp) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_mlp_select(cpu: *const MorayCpu, call: *const MorayMlpSelect, count: *mut usize) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_mlp_down(cpu: *const MorayCpu, call: *const MorayMlpDown) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_input_weight_create(
            w: MorayBytes,
            dtype: MorayDtype,
            n: usize,
            k: usize,
            out: *mut *mut MorayInputWeight,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_input_weight_create_quantized(
            weight: *const MorayQuantized,
            out: *mut *mut MorayInputWeight,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_input_weight_destroy(weight: *mut MorayInputWeight);
    }
    unsafe extern "C" {
        pub fn moray_input_workspace_create(
            weight: *const MorayInputWeight,
            max_tokens: usize,
            out: *mut *mut MorayInputWorkspace,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_input_workspace_destroy(workspace: *mut MorayInputWorkspace);
    }
    unsafe extern "C" {
        pub fn moray_by_input(cpu: *const MorayCpu, call: *const MorayByInput) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_by_input_kept(workspace: *const MorayInputWorkspace, kept: *mut MorayBytes) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_kv_cache_create(
            shape: *const MorayKvShape,
            dtype: MorayDtype,
            out: *mut *mut MorayKvCache,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_kv_cache_destroy(cache: *mut MorayKvCache);
    }
    unsafe extern "C" {
        pub fn moray_kv_cache_truncate(cache: *mut MorayKvCache, slot: usize, len: usize) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_kv_cache_read(
            cache: *const MorayKvCache,
            row: *const MorayKvRow,
            k: MorayBytesMut,
            v: MorayBytesMut,
            held: *mut u32,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_attention_create(
            cpu: *const MorayCpu,
            shape: *const MorayAttentionShape,
            out: *mut *mut MorayAttention,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_attention_destroy(attention: *mut MorayAttention);
    }
    unsafe extern "C" {
        pub fn moray_write_kv(
            cpu: *const MorayCpu,
            call: *const MorayAttend,
            policy: MorayKvPolicy,
            k: MorayBytes,
            v: MorayBytes,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_attend(
            cpu: *const MorayCpu,
            call: *const MorayAttend,
            q: MorayBytes,
            out: MorayBytesMut,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_create(context: *mut CUctx_st, out: *mut *mut MorayCuda) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_destroy(cuda: *mut MorayCuda);
    }
    unsafe extern "C" {
        pub fn moray_cuda_describe(
            cuda: *const MorayCuda,
            arch: *mut MorayArch,
            multiprocessors: *mut u32,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_check_memory(cuda: *const MorayCuda, checked: u32) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_load_kernels(cuda: *const MorayCuda) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_quantize_prepare(
            cuda: *const MorayCuda,
            call: *const MorayCudaQuantize,
            bytes: *mut usize,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_quantize(
            cuda: *const MorayCuda,
            stream: *mut CUstream_st,
            call: *const MorayCudaQuantize,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_linear_prepare(
            cuda: *const MorayCuda,
            call: *const MorayCudaLinear,
            bytes: *mut usize,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_linear(
            cuda: *const MorayCuda,
            stream: *mut CUstream_st,
            call: *const MorayCudaLinear,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_product_prepare(
            cuda: *const MorayCuda,
            call: *const MorayCudaProduct,
            bytes: *mut usize,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_product(
            cuda: *const MorayCuda,
            stream: *mut CUstream_st,
            call: *const MorayCudaProduct,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_rms_norm_prepare(cuda: *const MorayCuda, call: *const MorayCudaRmsNorm) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_rms_norm(
            cuda: *const MorayCuda,
            stream: *mut CUstream_st,
            call: *const MorayCudaRmsNorm,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_select_prepare(cuda: *const MorayCuda, call: *const MorayCudaSelect) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_select(
            cuda: *const MorayCuda,
            stream: *mut CUstream_st,
            call: *const MorayCudaSelect,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_union_prepare(cuda: *const MorayCuda, call: *const MorayCudaUnion) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_union(
            cuda: *const MorayCuda,
            stream: *mut CUstream_st,
            call: *const MorayCudaUnion,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_mlp_sizes(mlp: *const MorayMlp, out: *mut MorayCudaMlpWeights) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_mlp_pack(mlp: *const MorayMlp, memory: *const MorayCudaMlpWeights) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_mlp_prepare(
            cuda: *const MorayCuda,
            call: *const MorayCudaMlp,
            bytes: *mut usize,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_mlp(
            cuda: *const MorayCuda,
            stream: *mut CUstream_st,
            call: *const MorayCudaMlp,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_mlp_gate_up_prepare(
            cuda: *const MorayCuda,
            call: *const MorayCudaMlpGateUp,
            bytes: *mut usize,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_mlp_gate_up(
            cuda: *const MorayCuda,
            stream: *mut CUstream_st,
            call: *const MorayCudaMlpGateUp,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_mlp_down_prepare(
            cuda: *const MorayCuda,
            call: *const MorayCudaMlpDown,
            bytes: *mut usize,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_mlp_down(
            cuda: *const MorayCuda,
            stream: *mut CUstream_st,
            call: *const MorayCudaMlpDown,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_by_input_prepare(cuda: *const MorayCuda, call: *const MorayCudaByInput) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_by_input(
            cuda: *const MorayCuda,
            stream: *mut CUstream_st,
            call: *const MorayCudaByInput,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_input_rows_sizes(
            weight: *const MorayInputWeight,
            out: *mut MorayCudaInputRows,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_input_rows_pack(
            weight: *const MorayInputWeight,
            memory: *const MorayCudaInputRows,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_by_input_four_bit_prepare(
            cuda: *const MorayCuda,
            call: *const MorayCudaByInputFourBit,
            bytes: *mut usize,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_by_input_four_bit(
            cuda: *const MorayCuda,
            stream: *mut CUstream_st,
            call: *const MorayCudaByInputFourBit,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_write_kv_prepare(cuda: *const MorayCuda, call: *const MorayCudaWriteKv) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_write_kv(
            cuda: *const MorayCuda,
            stream: *mut CUstream_st,
            call: *const MorayCudaWriteKv,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_attend_prepare(
            cuda: *const MorayCuda,
            call: *const MorayCudaAttend,
            bytes: *mut usize,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_attend(
            cuda: *const MorayCuda,
            stream: *mut CUstream_st,
            call: *const MorayCudaAttend,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_write_attend_prepare(
            cuda: *const MorayCuda,
            call: *const MorayCudaWriteAttend,
            bytes: *mut usize,
        ) -> MorayStatus;
    }
    unsafe extern "C" {
        pub fn moray_cuda_write_attend(
            cuda: *const MorayCuda,
            stream: *mut CUstream_st,
            call: *const MorayCudaWriteAttend,
        ) -> MorayStatus;
    }
}

#[test]
fn signatures_of_the_header_match_the_crate() {
    let _: [unsafe extern "C" fn() -> _; 2] = [header::moray_abi_version, moray_abi_version];
    let _: [unsafe extern "C" fn() -> _; 2] = [header::moray_version, moray_version];
    let _: [unsafe extern "C" fn(_) -> _; 2] = [header::moray_init, moray_init];
    let _: [unsafe extern "C" fn() -> _; 2] = [header::moray_last_error, moray_last_error];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cpu_create, moray_cpu_create];
    let _: [unsafe extern "C" fn(_, _, _, _) -> _; 2] = [header::moray_cpu_create_openmp, moray_cpu_create_openmp];
    let _: [unsafe extern "C" fn(_); 2] = [header::moray_cpu_destroy, moray_cpu_destroy];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cpu_describe, moray_cpu_describe];
    let _: [unsafe extern "C" fn(_, _, _, _) -> _; 2] = [header::moray_section_bytes, moray_section_bytes];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_supports, moray_supports];
    let _: [unsafe extern "C" fn(_, _, _, _, _, _) -> _; 2] = [header::moray_quantize, moray_quantize];
    let _: [unsafe extern "C" fn(_, _, _, _, _) -> _; 2] = [header::moray_quantized_create, moray_quantized_create];
    let _: [unsafe extern "C" fn(_); 2] = [header::moray_quantized_destroy, moray_quantized_destroy];
    let _: [unsafe extern "C" fn(_, _, _, _, _) -> _; 2] = [header::moray_quantized_describe, moray_quantized_describe];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_quantized_dequantize, moray_quantized_dequantize];
    let _: [unsafe extern "C" fn(_, _, _, _, _) -> _; 2] = [header::moray_import_blocks, moray_import_blocks];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_import_exported, moray_import_exported];
    let _: [unsafe extern "C" fn(_, _, _, _, _, _) -> _; 2] = [header::moray_import_qqq, moray_import_qqq];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_quantized_order, moray_quantized_order];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_weight_pack, moray_weight_pack];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_pack, moray_pack];
    let _: [unsafe extern "C" fn(_, _, _, _, _) -> _; 2] = [header::moray_weight_borrow, moray_weight_borrow];
    let _: [unsafe extern "C" fn(_); 2] = [header::moray_weight_destroy, moray_weight_destroy];
    let _: [unsafe extern "C" fn(_, _, _, _, _) -> _; 2] = [header::moray_weight_describe, moray_weight_describe];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_weight_unpack, moray_weight_unpack];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_weight_row, moray_weight_row];
    let _: [unsafe extern "C" fn(_, _, _, _) -> _; 2] = [header::moray_activations_create, moray_activations_create];
    let _: [unsafe extern "C" fn(_); 2] = [header::moray_activations_destroy, moray_activations_destroy];
    let _: [unsafe extern "C" fn(_, _, _, _, _, _, _) -> _; 2] =
        [header::moray_activations_quantize, moray_activations_quantize];
    let _: [unsafe extern "C" fn(_, _, _, _, _) -> _; 2] = [header::moray_activations_set, moray_activations_set];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_activations_describe, moray_activations_describe];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_linear, moray_linear];
    let _: [unsafe extern "C" fn(_, _, _, _, _, _, _) -> _; 2] = [header::moray_mlp_create, moray_mlp_create];
    let _: [unsafe extern "C" fn(_, _, _, _, _, _) -> _; 2] =
        [header::moray_mlp_create_quantized, moray_mlp_create_quantized];
    let _: [unsafe extern "C" fn(_); 2] = [header::moray_mlp_destroy, moray_mlp_destroy];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_mlp_workspace_create, moray_mlp_workspace_create];
    let _: [unsafe extern "C" fn(_); 2] = [header::moray_mlp_workspace_destroy, moray_mlp_workspace_destroy];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_mlp_forward, moray_mlp_forward];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_mlp_kept, moray_mlp_kept];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_mlp_gate_up, moray_mlp_gate_up];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_mlp_select, moray_mlp_select];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_mlp_down, moray_mlp_down];
    let _: [unsafe extern "C" fn(_, _, _, _, _) -> _; 2] =
        [header::moray_input_weight_create, moray_input_weight_create];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] =
        [header::moray_input_weight_create_quantized, moray_input_weight_create_quantized];
    let _: [unsafe extern "C" fn(_); 2] = [header::moray_input_weight_destroy, moray_input_weight_destroy];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] =
        [header::moray_input_workspace_create, moray_input_workspace_create];
    let _: [unsafe extern "C" fn(_); 2] = [header::moray_input_workspace_destroy, moray_input_workspace_destroy];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_by_input, moray_by_input];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_by_input_kept, moray_by_input_kept];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_kv_cache_create, moray_kv_cache_create];
    let _: [unsafe extern "C" fn(_); 2] = [header::moray_kv_cache_destroy, moray_kv_cache_destroy];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_kv_cache_truncate, moray_kv_cache_truncate];
    let _: [unsafe extern "C" fn(_, _, _, _, _) -> _; 2] = [header::moray_kv_cache_read, moray_kv_cache_read];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_attention_create, moray_attention_create];
    let _: [unsafe extern "C" fn(_); 2] = [header::moray_attention_destroy, moray_attention_destroy];
    let _: [unsafe extern "C" fn(_, _, _, _, _) -> _; 2] = [header::moray_write_kv, moray_write_kv];
    let _: [unsafe extern "C" fn(_, _, _, _) -> _; 2] = [header::moray_attend, moray_attend];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_cuda_create, moray_cuda_create];
    let _: [unsafe extern "C" fn(_); 2] = [header::moray_cuda_destroy, moray_cuda_destroy];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cuda_describe, moray_cuda_describe];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_cuda_check_memory, moray_cuda_check_memory];
    let _: [unsafe extern "C" fn(_) -> _; 2] = [header::moray_cuda_load_kernels, moray_cuda_load_kernels];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cuda_quantize_prepare, moray_cuda_quantize_prepare];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cuda_quantize, moray_cuda_quantize];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cuda_linear_prepare, moray_cuda_linear_prepare];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cuda_linear, moray_cuda_linear];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cuda_product_prepare, moray_cuda_product_prepare];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cuda_product, moray_cuda_product];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_cuda_rms_norm_prepare, moray_cuda_rms_norm_prepare];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cuda_rms_norm, moray_cuda_rms_norm];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_cuda_select_prepare, moray_cuda_select_prepare];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cuda_select, moray_cuda_select];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_cuda_union_prepare, moray_cuda_union_prepare];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cuda_union, moray_cuda_union];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_cuda_mlp_sizes, moray_cuda_mlp_sizes];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_cuda_mlp_pack, moray_cuda_mlp_pack];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cuda_mlp_prepare, moray_cuda_mlp_prepare];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cuda_mlp, moray_cuda_mlp];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] =
        [header::moray_cuda_mlp_gate_up_prepare, moray_cuda_mlp_gate_up_prepare];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cuda_mlp_gate_up, moray_cuda_mlp_gate_up];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cuda_mlp_down_prepare, moray_cuda_mlp_down_prepare];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cuda_mlp_down, moray_cuda_mlp_down];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_cuda_by_input_prepare, moray_cuda_by_input_prepare];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cuda_by_input, moray_cuda_by_input];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_cuda_input_rows_sizes, moray_cuda_input_rows_sizes];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_cuda_input_rows_pack, moray_cuda_input_rows_pack];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] =
        [header::moray_cuda_by_input_four_bit_prepare, moray_cuda_by_input_four_bit_prepare];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] =
        [header::moray_cuda_by_input_four_bit, moray_cuda_by_input_four_bit];
    let _: [unsafe extern "C" fn(_, _) -> _; 2] = [header::moray_cuda_write_kv_prepare, moray_cuda_write_kv_prepare];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cuda_write_kv, moray_cuda_write_kv];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cuda_attend_prepare, moray_cuda_attend_prepare];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cuda_attend, moray_cuda_attend];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] =
        [header::moray_cuda_write_attend_prepare, moray_cuda_write_attend_prepare];
    let _: [unsafe extern "C" fn(_, _, _) -> _; 2] = [header::moray_cuda_write_attend, moray_cuda_write_attend];
}
