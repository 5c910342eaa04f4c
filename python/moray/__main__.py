"""`python -m moray`: what this library is and what it supports."""

import moray

cpu = moray.Cpu(1)
print(f"moray {moray.__version__}, packed layout {moray.LAYOUT_VERSION}, instruction set {cpu.arch}: {moray.library_path()}")
for operation, form, dtype, supported, words in moray.support_table():
    named = "not quantized" if form is None else f"{form.bits} bits"
    if form and form.group_size:
        named += f", groups of {form.group_size}, scales {form.group_scale}, offsets {form.offset}"
    print(f"{operation:10} {dtype:4} {named:55} {'yes' if supported else 'no':3} {words}")
