//! GPT-2's spelling of bytes as printable characters.
//!
//! Byte-level vocabularies store every byte as one visible character, so that tokens survive in text files: the
//! printable Latin-1 characters stand for themselves and the other 68 bytes, in order, for U+0100 and up (a space
//! becomes `Ġ`). Source: `bytes_to_unicode` in the GPT-2 release (Radford et al. 2019).

/// The character that stands for `byte`.
pub(crate) const fn char_of(byte: u8) -> char {
    CHARS[byte as usize]
}

/// The byte that `c` stands for, if it stands for one.
pub(crate) fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ 0..=0xFF if stands_for_itself(code as u8) => Some(code as u8),
        code @ FIRST_SUBSTITUTE..LAST_SUBSTITUTE => {
            Some(SUBSTITUTED[(code - FIRST_SUBSTITUTE) as usize])
        }
        _ => None,
    }
}

/// Spells `text` in byte characters, appended to `out`.
pub(crate) fn spell(text: &str, out: &mut String) {
    out.extend(text.bytes().map(char_of));
}

const FIRST_SUBSTITUTE: u32 = 0x100;
/// 256 bytes less the 188 that stand for themselves.
const N_SUBSTITUTES: usize = 68;
const LAST_SUBSTITUTE: u32 = FIRST_SUBSTITUTE + N_SUBSTITUTES as u32;

const fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// Byte of each substitute character, in order.
const SUBSTITUTED: [u8; N_SUBSTITUTES] = {
    let mut table = [0; N_SUBSTITUTES];
    let (mut byte, mut n) = (0, 0);
    while byte < 256 {
        if !stands_for_itself(byte as u8) {
            table[n] = byte as u8;
            n += 1;
        }
        byte += 1;
    }
    table
};

/// Character of each byte.
const CHARS: [char; 256] = {
    let mut table = ['\0'; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = byte as u8 as char;
        byte += 1;
    }
    let mut n = 0;
    while n < N_SUBSTITUTES {
        table[SUBSTITUTED[n] as usize] = match char::from_u32(FIRST_SUBSTITUTE + n as u32) {
            Some(c) => c,
            None => panic!("U+0100 and up are characters"),
        };
        n += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_returns_from_its_character() {
        for byte in 0..=255 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
    }

    #[test]
    fn known_characters_stand_for_known_bytes() {
        assert_eq!(char_of(b' '), 'Ġ');
        assert_eq!(char_of(b'\n'), 'Ċ');
        assert_eq!(char_of(0), 'Ā');
        assert_eq!(char_of(0xAD), 'Ń');
        assert_eq!(char_of(b'a'), 'a');
        assert_eq!(byte_of('ń'), None);
        assert_eq!(byte_of(' '), None);
    }
}
