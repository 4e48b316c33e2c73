//! The text of a template to tokens, with the white space that Jinja takes away.
//!
//! As Hugging Face sets Jinja up: `trim_blocks` (the line break behind a block is none), `lstrip_blocks` (nor is the
//! white space before a block that begins its line), one line break at the end of the source is none, `-` strips and
//! `+` keeps.

use super::failure::Failure;

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// Text between tags, never empty.
    Text(String),
    /// `{{`
    OutputBegin,
    /// `}}`
    OutputEnd,
    /// `{%`
    BlockBegin,
    /// `%}`
    BlockEnd,
    /// An identifier or keyword.
    Name(String),
    /// A string without its quotes and escapes.
    Str(String),
    /// An integer.
    Int(i64),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// An operator or a bracket.
    Op(&'static str),
}

/// Operators, the longer ones first.
const OPERATORS: [&str; 26] = [
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "|", ".", ",", ":", "(", ")",
    "[", "]", "{", "}", "<", ">", "=", ";",
];

/// The tokens of `source`, each with its line, counted from 1.
pub(super) fn lex(source: &str) -> Result<Vec<(Token, u32)>, (Failure, u32)> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut lexer = Lexer {
        rest: source.strip_suffix('\n').unwrap_or(&source),
        line: 1,
        at_line_start: true,
        tokens: Vec::new(),
    };
    match lexer.run() {
        Ok(()) => Ok(lexer.tokens),
        Err(failure) => Err((failure, lexer.line)),
    }
}

struct Lexer<'a> {
    rest: &'a str,
    line: u32,
    /// Whether what was consumed last ended a line.
    at_line_start: bool,
    tokens: Vec<(Token, u32)>,
}

impl<'a> Lexer<'a> {
    fn run(&mut self) -> Result<(), Failure> {
        while !self.rest.is_empty() {
            let Some((begin, kind)) = next_tag(self.rest) else {
                let text = self.take(self.rest.len());
                self.text(text);
                return Ok(());
            };
            let sign = self.rest[begin + 2..].chars().next();
            let stripped = strip_before(&self.rest[..begin], kind, sign, self.at_line_start);
            let text = self.take(begin);
            self.text(&text[..stripped]);
            self.take(2 + usize::from(matches!(sign, Some('-' | '+'))));
            match kind {
                '#' => self.comment()?,
                '{' => self.tag(Token::OutputBegin, "}}", Token::OutputEnd)?,
                _ if self.raw()? => {}
                _ => self.tag(Token::BlockBegin, "%}", Token::BlockEnd)?,
            }
        }
        Ok(())
    }

    /// Consumes `length` bytes.
    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(length);
        self.line += taken.matches('\n').count() as u32;
        self.at_line_start = taken.ends_with('\n');
        self.rest = rest;
        taken
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.push(Token::Text(text.to_owned()));
        }
    }

    /// Takes away what Jinja takes away behind a tag that ended with `sign` before its closing bracket.
    fn strip_behind(&mut self, sign: Option<char>, is_block: bool) {
        match sign {
            Some('-') => {
                let length = self.rest.len() - self.rest.trim_start().len();
                self.take(length);
            }
            Some('+') => {}
            _ if is_block && self.rest.starts_with('\n') => {
                self.take(1);
            }
            _ => {}
        }
    }

    fn comment(&mut self) -> Result<(), Failure> {
        let end = self
            .rest
            .find("#}")
            .ok_or_else(|| Failure::new("unexpected end of input: a comment has no end"))?;
        let sign = self.rest[..end].chars().next_back();
        self.take(end + 2);
        self.strip_behind(sign, true);
        Ok(())
    }

    /// `{% raw %}`, whose text is no template, if this is one.
    fn raw(&mut self) -> Result<bool, Failure> {
        let Some((length, sign)) = keyword_tag(self.rest, "raw") else {
            return Ok(false);
        };
        self.take(length);
        if sign == Some('-') {
            self.strip_behind(sign, false);
        }
        let mut from = 0;
        while let Some(found) = self.rest[from..].find("{%") {
            let begin = from + found;
            let inside = &self.rest[begin + 2..];
            let sign = inside.chars().next().filter(|c| matches!(c, '-' | '+'));
            let signed = usize::from(sign.is_some());
            if let Some((length, end_sign)) = keyword_tag(&inside[signed..], "endraw") {
                let kept = strip_before(&self.rest[..begin], '%', sign, false);
                let text = self.take(begin);
                self.text(&text[..kept]);
                self.take(2 + signed + length);
                self.strip_behind(end_sign, true);
                return Ok(true);
            }
            from = begin + 2;
        }
        Err(Failure::new(
            "unexpected end of input: `raw` has no `endraw`",
        ))
    }

    fn tag(&mut self, begin: Token, close: &str, end: Token) -> Result<(), Failure> {
        self.push(begin);
        let mut braces = 0_usize;
        loop {
            let spaces = self.rest.len() - self.rest.trim_start().len();
            self.take(spaces);
            let sign = self.rest.chars().next().filter(|c| matches!(c, '-' | '+'));
            let signed = usize::from(sign.is_some());
            if braces == 0 && self.rest[signed..].starts_with(close) {
                self.push(end);
                self.take(signed + close.len());
                self.strip_behind(sign, close == "%}");
                return Ok(());
            }
            let token = self.token()?;
            match token {
                Token::Op("{" | "[" | "(") => braces += 1,
                Token::Op("}" | "]" | ")") => braces = braces.saturating_sub(1),
                _ => {}
            }
            self.push(token);
        }
    }

    fn token(&mut self) -> Result<Token, Failure> {
        let first = self
            .rest
            .chars()
            .next()
            .ok_or_else(|| Failure::new("unexpected end of input in a tag"))?;
        if first.is_alphabetic() || first == '_' {
            let is_inside = |c: char| c.is_alphanumeric() || c == '_';
            let end = self.rest.find(|c| !is_inside(c));
            return Ok(Token::Name(
                self.take(end.unwrap_or(self.rest.len())).to_owned(),
            ));
        }
        if first.is_ascii_digit() {
            return self.number();
        }
        if matches!(first, '"' | '\'') {
            return self.string(first);
        }
        match OPERATORS.iter().find(|op| self.rest.starts_with(**op)) {
            Some(operator) => {
                self.take(operator.len());
                Ok(Token::Op(operator))
            }
            None => Err(Failure::new(format!(
                "unexpected character `{}`",
                first.escape_debug()
            ))),
        }
    }

    fn number(&mut self) -> Result<Token, Failure> {
        let bytes = self.rest.as_bytes();
        let digits = |from: usize| {
            let is_digit = |byte: &&u8| byte.is_ascii_digit() || **byte == b'_';
            from + bytes[from..].iter().take_while(is_digit).count()
        };
        let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
        let whole = digits(0);
        let mut end = whole;
        if bytes.get(end) == Some(&b'.') && is_digit(end + 1) {
            end = digits(end + 1);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            if is_digit(end + 1 + sign) {
                end = digits(end + 1 + sign);
            }
        }
        let text = self.take(end).replace('_', "");
        let failed = || Failure::new(format!("the number {text:.40} is out of range"));
        if end == whole {
            return Ok(Token::Int(text.parse().map_err(|_| failed())?));
        }
        let number: f64 = text.parse().map_err(|_| failed())?;
        number
            .is_finite()
            .then_some(Token::Float(number))
            .ok_or_else(failed)
    }

    fn string(&mut self, quote: char) -> Result<Token, Failure> {
        let mut out = String::new();
        let mut chars = self.rest[1..].char_indices();
        let unended = || Failure::new("unexpected end of input: a string has no end");
        loop {
            let (at, c) = chars.next().ok_or_else(unended)?;
            if c == quote {
                self.take(at + 2);
                return Ok(Token::Str(out));
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            let (_, escape) = chars.next().ok_or_else(unended)?;
            let digits = match escape {
                'x' => 2,
                'u' => 4,
                'U' => 8,
                _ => 0,
            };
            if digits > 0 {
                let code = chars
                    .as_str()
                    .get(..digits)
                    .and_then(|hex| u32::from_str_radix(hex, 16).ok());
                let mut code =
                    code.ok_or_else(|| Failure::new("a string has an escape without its digits"))?;
                chars.nth(digits - 1);
                // Beyond the first plane, JSON's way of two halves is accepted too.
                if (0xD800..0xDC00).contains(&code) && chars.as_str().starts_with("\\u") {
                    let low = chars
                        .as_str()
                        .get(2..6)
                        .and_then(|hex| u32::from_str_radix(hex, 16).ok());
                    if let Some(low) = low.filter(|low| (0xDC00..0xE000).contains(low)) {
                        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                        chars.nth(5);
                    }
                }
                let c = char::from_u32(code);
                out.push(c.ok_or_else(|| {
                    Failure::new(format!("a string has U+{code:04X}, which is no character"))
                })?);
                continue;
            }
            match escape {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                'b' => out.push('\u{8}'),
                'f' => out.push('\u{c}'),
                'v' => out.push('\u{b}'),
                'a' => out.push('\u{7}'),
                '0' => out.push('\0'),
                '\\' | '\'' | '"' | '/' => out.push(escape),
                '\n' => {}
                other => out.extend(['\\', other]),
            }
        }
    }
}

/// Where the next tag begins, and the second character of its bracket.
fn next_tag(text: &str) -> Option<(usize, char)> {
    let bytes = text.as_bytes();
    let begins =
        |at: &usize| bytes[*at] == b'{' && matches!(bytes.get(at + 1), Some(b'{' | b'%' | b'#'));
    let at = (0..bytes.len()).find(begins)?;
    Some((at, bytes[at + 1] as char))
}

/// The length of `text` without what a tag of `kind` behind it takes away.
fn strip_before(text: &str, kind: char, sign: Option<char>, at_line_start: bool) -> usize {
    match sign {
        Some('-') => text.trim_end().len(),
        Some('+') => text.len(),
        _ if kind == '{' => text.len(),
        _ => {
            let line = text.rfind('\n').map_or(0, |at| at + 1);
            let is_indent = text[line..].chars().all(char::is_whitespace);
            if is_indent && (line > 0 || at_line_start) {
                line
            } else {
                text.len()
            }
        }
    }
}

/// The length of a block's inside that is `keyword` alone, up to its end, and the sign there.
fn keyword_tag(text: &str, keyword: &str) -> Option<(usize, Option<char>)> {
    let rest = text.trim_start().strip_prefix(keyword)?.trim_start();
    let sign = rest.chars().next().filter(|c| matches!(c, '-' | '+'));
    let rest = rest[usize::from(sign.is_some())..].strip_prefix("%}")?;
    Some((text.len() - rest.len(), sign))
}
