// SPDX-License-Identifier: GPL-2.0

//! Drawings: one value against the number of snapshots, both logarithmic.

use std::fmt::Write;

use super::Results;
use crate::sample::{Peer, Setting, Work};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 55.0;

struct Line {
    name: &'static str,
    colour: &'static str,
    /// Snapshots, and the median, least and greatest value.
    points: Vec<(f64, [f64; 3])>,
}

/// Names of files and what belongs in them.
pub fn all(results: &Results) -> Vec<(String, String)> {
    let mut charts = Vec::new();
    for latency in [0, 100] {
        let works = [
            (Work::First, "first-write", "MB/s"),
            (Work::Take, "take", "µs"),
            (Work::TakeLoaded, "take-loaded", "µs"),
        ];
        for (work, name, unit) in works {
            let lines = lines(results, work, latency);
            if !lines.is_empty() {
                let title = format!("{}, devices with {latency} µs", work.title());
                let file = format!("{name}-{latency}us.svg");
                charts.push((file, draw(&title, unit, &lines)));
            }
        }
    }
    charts
}

fn lines(results: &Results, work: Work, latency: u32) -> Vec<Line> {
    let peers = [
        (Peer::Ours, "#b3261e"),
        (Peer::Snapshot, "#1f5fa8"),
        (Peer::Thin, "#2e7d32"),
    ];
    let mut lines = Vec::new();
    for (peer, colour) in peers {
        let is_of =
            |s: &&Setting| s.work == work && s.peer == peer && s.latency == latency && s.jobs == 1;
        let points: Vec<_> = results
            .settings()
            .filter(is_of)
            .filter_map(|s| Some((f64::from(s.snapshots.max(1)), results.spread(s)?)))
            .collect();
        if !points.is_empty() {
            lines.push(Line {
                name: peer.name(),
                colour,
                points,
            });
        }
    }
    lines
}

/// From the power of ten below the least to that above the greatest.
fn decades(values: impl Iterator<Item = f64>) -> (i32, i32) {
    let mut range = (i32::MAX, i32::MIN);
    for value in values {
        let log = value.max(1e-3).log10();
        range = (
            range.0.min(log.floor() as i32),
            range.1.max(log.ceil() as i32),
        );
    }
    (range.0, range.1.max(range.0.saturating_add(1)))
}

fn draw(title: &str, unit: &str, lines: &[Line]) -> String {
    let all = || lines.iter().flat_map(|line| line.points.iter());
    let (x0, x1) = decades(all().map(|point| point.0));
    let (y0, y1) = decades(all().flat_map(|point| point.1));
    let x = |value: f64| {
        let part = (value.log10() - f64::from(x0)) / f64::from(x1 - x0);
        LEFT + part * (WIDTH - LEFT - RIGHT)
    };
    let y = |value: f64| {
        let part = (value.max(1e-3).log10() - f64::from(y0)) / f64::from(y1 - y0);
        HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
    };
    let mut svg = String::new();
    // Writing to a string does not fail.
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"26\" font-size=\"16\">{title}</text>\n"
    );
    for decade in x0..=x1 {
        let (at, bottom) = (x(10f64.powi(decade)), HEIGHT - BOTTOM);
        let _ = write!(
            svg,
            "<path d=\"M{at:.1} {TOP}V{bottom}\" stroke=\"#ddd\"/>\n\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
            bottom + 18.0,
            10f64.powi(decade)
        );
    }
    for decade in y0..=y1 {
        let (at, right) = (y(10f64.powi(decade)), WIDTH - RIGHT);
        let _ = write!(
            svg,
            "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
            LEFT - 8.0,
            at + 4.0,
            10f64.powi(decade)
        );
    }
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    let _ = write!(
        svg,
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">snapshots</text>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{unit}</text>\n",
        HEIGHT - 12.0,
        LEFT - 8.0,
        TOP - 12.0
    );
    for (i, line) in lines.iter().enumerate() {
        let colour = line.colour;
        let points: Vec<String> = line
            .points
            .iter()
            .map(|(n, v)| format!("{:.1},{:.1}", x(*n), y(v[0])))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
        for (n, [middle, least, greatest]) in &line.points {
            let _ = write!(
                svg,
                "<path d=\"M{0:.1} {1:.1}V{2:.1}\" stroke=\"{colour}\"/>\n\
                 <circle cx=\"{0:.1}\" cy=\"{3:.1}\" r=\"3.5\" fill=\"{colour}\"/>\n",
                x(*n),
                y(*least),
                y(*greatest),
                y(*middle)
            );
        }
        let at = TOP + 14.0 + 22.0 * i as f64;
        let _ = write!(
            svg,
            "<path d=\"M{0} {1}h24\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
             <text x=\"{2}\" y=\"{3}\">{4}</text>\n",
            WIDTH - RIGHT + 16.0,
            at,
            WIDTH - RIGHT + 46.0,
            at + 4.0,
            line.name
        );
    }
    svg.push_str("</svg>\n");
    svg
}
