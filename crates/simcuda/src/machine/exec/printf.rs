//! The device's `printf`: expands a format with arguments from memory.

/// Expands `format`. `argument` reads bytes of the argument buffer; `text` reads a string argument, `None` prints its address.
pub(crate) fn expand(
    format: &str,
    mut argument: impl FnMut(u64, usize) -> Option<Vec<u8>>,
    mut text: impl FnMut(u64) -> Option<String>,
) -> String {
    let (mut out, mut offset) = (String::new(), 0u64);
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let len = rest.find(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'l' | 'h' | 'z') || c == '%');
        let Some(len) = len else {
            out.push('%');
            continue;
        };
        let (spec, kind) = (&rest[..len], rest.as_bytes()[len]);
        rest = &rest[len + 1..];
        if kind == b'%' {
            out.push('%');
            continue;
        }
        // Arguments are aligned to their size, floats are passed as f64.
        let wide = matches!(kind, b'f' | b'e' | b'g' | b'E' | b'G' | b'F' | b's' | b'p') || spec.contains(['l', 'z']);
        let size = if wide { 8 } else { 4 };
        offset = offset.next_multiple_of(size);
        let bytes = argument(offset, size as usize).unwrap_or_else(|| vec![0; size as usize]);
        offset += size;
        let bits = bytes.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
        out.push_str(&pad(spec, &one(spec, kind, bits, wide, &mut text)));
    }
    out.push_str(rest);
    out
}

/// One argument without its padding.
fn one(spec: &str, kind: u8, bits: u64, wide: bool, text: &mut impl FnMut(u64) -> Option<String>) -> String {
    let precision = spec.split('.').nth(1).and_then(|p| p.trim_end_matches(['l', 'h', 'z']).parse::<usize>().ok());
    let signed = if wide { bits as i64 } else { i64::from(bits as u32 as i32) };
    match kind {
        b'd' | b'i' => signed.to_string(),
        b'u' => bits.to_string(),
        b'x' => format!("{bits:x}"),
        b'X' => format!("{bits:X}"),
        b'o' => format!("{bits:o}"),
        b'c' => char::from(bits as u8).to_string(),
        b'p' => format!("{bits:#x}"),
        b's' => text(bits).unwrap_or_else(|| format!("{bits:#x}")),
        b'e' | b'E' => format!("{:.*e}", precision.unwrap_or(6), f64::from_bits(bits)),
        b'g' | b'G' => format!("{}", f64::from_bits(bits)),
        _ => format!("{:.*}", precision.unwrap_or(6), f64::from_bits(bits)),
    }
}

/// Pads to the width of a specification such as `-8.3` or `08`.
fn pad(spec: &str, value: &str) -> String {
    let flags: String = spec.chars().take_while(|c| "-+ #0".contains(*c)).collect();
    let digits: String = spec[flags.len()..].chars().take_while(char::is_ascii_digit).collect();
    // Wider fields than this are a corrupt format.
    let width = digits.parse::<usize>().unwrap_or(0).min(1024);
    if flags.contains('-') {
        format!("{value:<width$}")
    } else if flags.contains('0') {
        let (sign, number) = value.strip_prefix('-').map_or(("", value), |number| ("-", number));
        format!("{sign}{number:0>0$}", width.saturating_sub(sign.len()))
    } else {
        format!("{value:>width$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(format: &str, buffer: &[u8]) -> String {
        let read = |at: u64, len: usize| buffer.get(at as usize..at as usize + len).map(<[u8]>::to_vec);
        expand(format, read, |_| Some("text".into()))
    }

    #[test]
    fn expansion_matches_c_for_common_formats() {
        let mut buffer = Vec::new();
        buffer.extend((-7i32).to_le_bytes());
        buffer.extend([0; 4]);
        buffer.extend(1.5f64.to_le_bytes());
        buffer.extend(255u32.to_le_bytes());
        assert_eq!(print("a %d b %.2f c %04x%%\n", &buffer), "a -7 b 1.50 c 00ff%\n");
        assert_eq!(print("%5d|", &buffer), "   -7|");
        assert_eq!(print("%-5d|", &buffer), "-7   |");
        assert_eq!(print("%s", &[0; 8]), "text");
        assert_eq!(print("100%", &[]), "100%");
    }
}
