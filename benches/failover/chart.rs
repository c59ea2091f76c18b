//! Horizontal bars of both systems beside each other, as SVG.

use std::fmt::Write as _;

use crate::stage::System;

pub const BOTH: [System; 2] = [System::Tenure, System::Patroni];

const LEFT: f64 = 150.0;
const WIDTH: f64 = 760.0;
const ROW: f64 = 46.0;
const TOP: f64 = 56.0;

pub struct Row {
    pub label: String,
    pub bars: Vec<Bar>,
}

pub struct Bar {
    pub system: System,
    pub length: f64,
    /// A thin line goes on to here.
    pub worst: f64,
}

pub fn bars(title: &str, subtitle: &str, rows: &[Row]) -> String {
    let longest = rows.iter().flat_map(|row| &row.bars).map(|bar| bar.worst).fold(f64::EPSILON, f64::max);
    let height = TOP + ROW * f64::from(u32::try_from(rows.len()).unwrap_or(u32::MAX)) + 20.0;
    let scale = (WIDTH - LEFT - 110.0) / longest;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">
<rect width=\"100%\" height=\"100%\" fill=\"white\"/>
<text x=\"10\" y=\"22\" font-size=\"15\">{title}</text>
<text x=\"10\" y=\"40\" fill=\"#555\">{subtitle}</text>
"
    );
    let mut y = TOP;
    for Row { label, bars } in rows {
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{label}</text>",
            LEFT - 10.0,
            y + 22.0
        );
        for Bar { system, length, worst } in bars {
            let (colour, shift) = match system {
                System::Tenure => ("#1b7f5c", 2.0),
                System::Patroni => ("#b0b7c3", 20.0),
            };
            let (top, long, farthest) = (y + shift, (length * scale).max(1.0), LEFT + worst * scale);
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{long:.1}\" height=\"15\" fill=\"{colour}\"/>
<line x1=\"{LEFT}\" x2=\"{farthest:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"black\" stroke-width=\"1\"/>
<text x=\"{:.1}\" y=\"{}\">{length:.2} {}</text>",
                farthest + 6.0,
                top + 12.0,
                system.name(),
                middle = top + 7.5,
            );
        }
        y += ROW;
    }
    svg + "</svg>\n"
}
