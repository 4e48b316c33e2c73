//! Shares of the machine's limits by the number of tokens in a pass, drawn as an SVG.
//!
//! The picture of this whole engine: with one token a pass is bound by memory, with many by int8 arithmetic, and the
//! two lines cross where one limit takes over from the other. Written by hand, so that the file is small and follows
//! the reader's light or dark theme.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use bitnet_hub::shell::quoted;

use crate::exit::CliError;
use crate::pending::Pending;

use super::report::{Measured, Report};

/// The drawing's size and the plotting area in it, in SVG units: wide enough for a column of text.
const SIZE: (f64, f64) = (640.0, 424.0);
const LEFT: f64 = 72.0;
const RIGHT: f64 = 616.0;
const TOP: f64 = 80.0;
const BOTTOM: f64 = 364.0;

/// Refuses what cannot be drawn, before it is measured: a file of another kind than SVG by its name, and sizes of passes
/// that no line can be drawn through.
///
/// # Errors
/// Another ending than `.svg`; fewer than two sizes.
pub fn check(file: &Path, sizes: &[usize]) -> Result<(), CliError> {
    let is_svg = |ending: &std::ffi::OsStr| ending.eq_ignore_ascii_case("svg");
    if !file.extension().is_some_and(is_svg) {
        let named = file.with_extension("svg");
        return Err(CliError::usage(
            format!(
                "a plot is drawn as SVG, and the name {} does not end in .svg",
                file.display()
            ),
            format!("--plot {}", quoted(&named.display().to_string())),
        ));
    }
    if sizes.iter().all(|size| Some(size) == sizes.first()) {
        return Err(CliError::usage(
            "a plot needs at least two sizes of a pass",
            "give several: batch sizes (-b 1,4,16) where tokens are decoded (-n 32), lengths of prompts (-p 64,512)",
        ));
    }
    Ok(())
}

/// Draws the rows of the most threads into the file; their sizes passed [`check`].
///
/// # Errors
/// A file that cannot be written.
pub fn write(report: &Report, pending: Pending) -> Result<(), CliError> {
    let points = points(&report.results);
    let error = |source: std::io::Error| {
        CliError::runtime(
            format!("cannot write the plot: {source}"),
            "choose another place with --plot FILE",
        )
    };
    fs::write(pending.path(), svg(report, &points)).map_err(error)?;
    pending.finish()
}

/// The shares of one pass.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    /// Tokens in the pass.
    tokens: usize,
    bandwidth: f64,
    compute: f64,
}

/// One point for each size of a pass, in order; of several rows of one size the first counts.
fn points(results: &[Measured]) -> Vec<Point> {
    let most = results.iter().map(|r| r.threads).max();
    let mut points: Vec<Point> = results
        .iter()
        .filter(|r| Some(r.threads) == most)
        .map(|r| Point {
            tokens: match r.phase {
                "prefill" => r.prompt,
                _ => r.batch,
            },
            bandwidth: r.bandwidth_share,
            compute: r.compute_share,
        })
        .collect();
    points.sort_by_key(|point| point.tokens);
    points.dedup_by_key(|point| point.tokens);
    points
}

fn svg(report: &Report, points: &[Point]) -> String {
    let (first, last) = (points[0].tokens, points[points.len() - 1].tokens);
    let octaves = (last as f64 / first as f64).log2();
    // Batch sizes double: on a logarithmic axis they are evenly apart.
    let x = |tokens: usize| LEFT + (tokens as f64 / first as f64).log2() / octaves * (RIGHT - LEFT);
    let y = |share: f64| BOTTOM - share.clamp(0.0, 1.0) * (BOTTOM - TOP);
    let mut s = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" role=\"img\" \
         aria-labelledby=\"title\" font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
         <title id=\"title\">Share of the machine's limits by tokens in a pass</title>\n{STYLE}",
        SIZE.0, SIZE.1
    );
    text(
        &mut s,
        LEFT,
        22.0,
        "start",
        "text",
        "Share of the machine's limits",
    );
    for (at, line) in [(42.0, model_line(report)), (59.0, machine_line(report))] {
        text(&mut s, LEFT, at, "start", "soft", &line);
    }
    for percent in [0, 20, 40, 60, 80, 100] {
        let at = y(f64::from(percent) / 100.0);
        line(&mut s, (LEFT, at), (RIGHT, at), "grid");
        text(
            &mut s,
            LEFT - 8.0,
            at + 4.0,
            "end",
            "soft",
            &format!("{percent} %"),
        );
    }
    for point in points {
        let at = x(point.tokens);
        line(&mut s, (at, BOTTOM), (at, BOTTOM + 4.0), "grid");
        text(
            &mut s,
            at,
            BOTTOM + 20.0,
            "middle",
            "soft",
            &point.tokens.to_string(),
        );
    }
    text(
        &mut s,
        (LEFT + RIGHT) / 2.0,
        BOTTOM + 44.0,
        "middle",
        "text",
        "tokens in a pass (sequences decoded at once; prompt tokens prefilled)",
    );
    let middle = (TOP + BOTTOM) / 2.0;
    let _ = writeln!(
        s,
        "<text class=\"text\" transform=\"translate(20 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">share of the \
         limit</text>"
    );
    let bandwidth: fn(&Point) -> f64 = |point| point.bandwidth;
    let compute: fn(&Point) -> f64 = |point| point.compute;
    let series = [
        ("read", "read bandwidth", bandwidth),
        ("int8", "int8 peak", compute),
    ];
    for (class, name, share) in series {
        let at: Vec<(f64, f64)> = points.iter().map(|p| (x(p.tokens), y(share(p)))).collect();
        let path: Vec<String> = at.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            s,
            "<polyline class=\"{class}\" points=\"{}\"/>",
            path.join(" ")
        );
        for (point, (x, y)) in points.iter().zip(&at) {
            let _ = writeln!(
                s,
                "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"><title>{} token{}: {:.0} % of the \
                 {name}</title></circle>",
                point.tokens,
                if point.tokens == 1 { "" } else { "s" },
                share(point) * 100.0
            );
        }
    }
    // The legend stands on top, where no line can run through it.
    for (i, (class, name, _)) in series.iter().enumerate() {
        let at = RIGHT - 230.0 + 130.0 * i as f64;
        let _ = writeln!(
            s,
            "<circle class=\"{class}\" cx=\"{at:.1}\" cy=\"18\" r=\"4\"/>"
        );
        text(&mut s, at + 9.0, 22.0, "start", "text", name);
    }
    s.push_str("</svg>\n");
    s
}

/// What was measured: the model, its shape and the kernel that ran it.
fn model_line(report: &Report) -> String {
    let most = report.kernels.iter().max_by_key(|chosen| chosen.threads);
    let kernel = most.map_or(String::new(), |chosen| {
        format!("; kernel {}", chosen.kernel)
    });
    // Of a path the last part: the whole would not fit.
    let name = Path::new(&report.model).file_name();
    let name = name.map_or(report.model.clone().into(), |name| name.to_string_lossy());
    format!("{name}: {}{kernel}", report.shape)
}

/// What it was measured on: the CPU, and the limits of as many threads.
fn machine_line(report: &Report) -> String {
    let machine = &report.machine;
    let threads = report.results.iter().map(|r| r.threads).max().unwrap_or(1);
    format!(
        "{}: {:.0} GB/s read, {:.0} int8 GOPS with {threads} thread{}",
        machine.cpu,
        machine.read_gb_s,
        machine.int8_gops,
        if threads == 1 { "" } else { "s" },
    )
}

/// Colours that read on white and on black; text follows the theme.
const STYLE: &str = "<style>\n\
    .text { fill: #1f2328 } .soft { fill: #59636e; font-size: 11px } .grid { stroke: #d1d9e0 }\n\
    .read { stroke: #1f77b4; fill: none; stroke-width: 2 } circle.read { fill: #1f77b4 }\n\
    .int8 { stroke: #e07b00; fill: none; stroke-width: 2 } circle.int8 { fill: #e07b00 }\n\
    @media (prefers-color-scheme: dark) {\n\
    .text { fill: #f0f6fc } .soft { fill: #9198a1 } .grid { stroke: #3d444d }\n\
    }\n</style>\n";

fn line(s: &mut String, from: (f64, f64), to: (f64, f64), class: &str) {
    let _ = writeln!(
        s,
        "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(s: &mut String, x: f64, y: f64, anchor: &str, class: &str, words: &str) {
    let words = words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let _ = writeln!(
        s,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::super::report::Chosen;
    use super::*;

    fn measured(phase: &'static str, tokens: usize, threads: usize, share: f64) -> Measured {
        Measured {
            phase,
            prompt: tokens,
            generate: 8,
            batch: tokens,
            threads,
            tok_s: 1.0,
            tok_s_min: 1.0,
            tok_s_max: 1.0,
            bytes_per_token: 1.0,
            bandwidth_share: share,
            compute_share: 1.0 - share,
            operations_per_token: 1.0,
            profile: None,
        }
    }

    #[test]
    fn a_plot_has_the_rows_of_the_most_threads_in_order() {
        let results = [
            measured("prefill", 512, 2, 0.1),
            measured("decode", 4, 2, 0.7),
            measured("decode", 1, 2, 0.9),
            measured("decode", 1, 1, 0.5),
        ];
        let found = points(&results);
        assert_eq!(
            found.iter().map(|p| p.tokens).collect::<Vec<_>>(),
            [1, 4, 512]
        );
        assert_eq!(found[0].bandwidth, 0.9);
    }

    /// Every element that is opened is closed, in order, and no text holds a bare `<` or `&`.
    fn assert_well_formed(svg: &str) {
        let mut open = Vec::new();
        for part in svg.split('<').skip(1) {
            let (tag, text) = part.split_once('>').expect("a tag ends");
            assert!(!text.contains('>'), "{text}");
            assert!(text.split('&').skip(1).all(|t| t.contains(';')), "{text}");
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
            } else if !tag.ends_with('/') {
                open.push(tag.split_whitespace().next().expect("a name"));
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn the_drawing_is_well_formed_and_inside_its_frame() {
        let mut report = Report::new("/models/a&b.gguf".into());
        report.shape = "2560 wide".into();
        report.machine.cpu = "CPU <fast> & \"quoted\"".into();
        for (tokens, share) in [(1, 1.7), (4, 0.6), (32, 0.0)] {
            report.results.push(measured("decode", tokens, 2, share));
        }
        let drawn = svg(&report, &points(&report.results));
        assert_well_formed(&drawn);
        for words in [
            "CPU &lt;fast&gt; &amp; \"quoted\": 0 GB/s read",
            ">a&amp;b.gguf: 2560 wide",
        ] {
            assert!(drawn.contains(words), "{words}");
        }
        let mut n = 0;
        for point in drawn.split("points=\"").skip(1).flat_map(|p| {
            let list = p.split('"').next().unwrap_or_default();
            list.split(' ').collect::<Vec<_>>()
        }) {
            let (x, y) = point.split_once(',').expect("a pair");
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!(
                (LEFT..=RIGHT).contains(&x) && (TOP..=BOTTOM).contains(&y),
                "{point}"
            );
            n += 1;
        }
        assert_eq!(n, 6);
    }

    #[test]
    fn shares_stand_at_their_heights_and_sizes_evenly_by_octaves() {
        let mut report = Report::new("m".into());
        for (tokens, share) in [(1, 0.75), (4, 0.5), (16, 0.25)] {
            report.results.push(measured("decode", tokens, 2, share));
        }
        report.kernels = [(1, "one"), (2, "two")]
            .map(|(threads, kernel)| Chosen {
                threads,
                kernel: kernel.into(),
                layouts: None,
            })
            .into();
        let drawn = svg(&report, &points(&report.results));
        let (quarter, middle) = ((BOTTOM - TOP) / 4.0, (LEFT + RIGHT) / 2.0);
        for (class, heights) in [("read", [1.0, 2.0, 3.0]), ("int8", [3.0, 2.0, 1.0])] {
            let [a, b, c] = heights.map(|quarters| TOP + quarters * quarter);
            let line = format!(
                "<polyline class=\"{class}\" points=\"{LEFT:.1},{a:.1} {middle:.1},{b:.1} {RIGHT:.1},{c:.1}\"/>"
            );
            assert!(drawn.contains(&line), "{line}\n{drawn}");
        }
        for words in [
            "; kernel two<",
            "1 token: 75 % of the read bandwidth",
            "16 tokens: 75 % of the int8 peak",
            ">share of the limit<",
            ">read bandwidth<",
        ] {
            assert!(drawn.contains(words), "{words}");
        }
    }

    #[test]
    fn one_size_is_no_line() {
        let svg = Path::new("shares.svg");
        for sizes in [&[][..], &[4], &[4, 4]] {
            assert!(check(svg, sizes).is_err(), "{sizes:?}");
        }
        assert!(check(svg, &[4, 4, 1]).is_ok());
        assert!(check(Path::new("SHARES.SVG"), &[4, 1]).is_ok());
    }
}
