//! The life of a flow, as [`Phase::on`] has it, written out for people: a table, a graph in the DOT
//! language, and a picture. All of it comes from the code, and a test compares it with what is in
//! docs/, so it cannot go stale.

use core::fmt::Write as _;
use std::format;
use std::string::String;
use std::vec::Vec;

use crate::flow::{Event, Phase};

/// Which phases follow which, and by what.
fn edges() -> Vec<(Phase, Phase, Vec<Event>)> {
    let mut edges: Vec<(Phase, Phase, Vec<Event>)> = Vec::new();
    for from in Phase::ALL {
        for event in Event::ALL {
            let Some(to) = from.on(event) else { continue };
            match edges.iter_mut().find(|edge| (edge.0, edge.1) == (from, to)) {
                Some(edge) => edge.2.push(event),
                None => edges.push((from, to, Vec::from([event]))),
            }
        }
    }
    edges
}

/// A Markdown table: a row for each phase, a column for each event; a dot where nothing changes.
#[must_use]
pub fn table() -> String {
    let mut text = String::from("| phase |");
    for event in Event::ALL {
        text += &format!(" {event:?} |");
    }
    text += "\n| --- |";
    text += &" --- |".repeat(Event::ALL.len());
    text += "\n";
    for phase in Phase::ALL {
        text += &format!("| **{phase:?}** |");
        for event in Event::ALL {
            match phase.on(event) {
                Some(next) => text += &format!(" {next:?} |"),
                None => text += " · |",
            }
        }
        text += "\n";
    }
    text
}

/// The same in the DOT language.
#[must_use]
pub fn dot() -> String {
    let mut text = String::from("digraph flow {\n  rankdir=LR;\n  node [shape=box, style=rounded];\n");
    for phase in Phase::ALL {
        if phase.is_final() {
            text += &format!("  {phase:?} [peripheries=2];\n");
        }
    }
    for (from, to, events) in edges() {
        let label = names(&events).join("\\n");
        text += &format!("  {from:?} -> {to:?} [label=\"{label}\"];\n");
    }
    text + "}\n"
}

fn names(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| format!("{event:?}")).collect()
}

type Point = (i32, i32);

const WIDTH: i32 = 124;
const HEIGHT: i32 = 44;

/// Where a phase's box has its middle.
const fn place(phase: Phase) -> Point {
    match phase {
        Phase::Open => (90, 210),
        Phase::Ended => (400, 60),
        Phase::Cut => (400, 210),
        Phase::Discarding => (400, 360),
        Phase::Shut => (760, 60),
        Phase::Broken => (760, 210),
    }
}

/// From where, over where, to where an edge is drawn.
fn route(from: Phase, to: Phase) -> [Point; 3] {
    let ((x, y), (to_x, to_y)) = (place(from), place(to));
    if (from, to) == (Phase::Open, Phase::Broken) {
        // around the others
        return [(x, y + HEIGHT / 2), (x + (to_x - x) / 2 - 20, 640), (to_x, to_y + HEIGHT / 2)];
    }
    let (start, end) = ((x + WIDTH / 2, y), (to_x - WIDTH / 2, to_y + (y - to_y) / 16));
    [start, ((start.0 + end.0) / 2, (start.1 + end.1) / 2), end]
}

/// The same as a picture.
#[must_use]
pub fn svg() -> String {
    let mut text = String::from(concat!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 860 470\" ",
        "font-family=\"sans-serif\" font-size=\"13\" text-anchor=\"middle\">\n",
        "<title>The life of a flow</title>\n",
        "<defs><marker id=\"tip\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"8\" ",
        "markerHeight=\"8\" orient=\"auto\"><path d=\"M0 0L10 5L0 10z\" fill=\"#456\"/></marker></defs>\n",
        "<rect width=\"860\" height=\"470\" fill=\"#fff\"/>\n",
    ));
    for (from, to, events) in edges() {
        draw_edge(&mut text, route(from, to), &names(&events));
    }
    for phase in Phase::ALL {
        draw_phase(&mut text, phase);
    }
    text + "</svg>\n"
}

fn draw_edge(text: &mut String, [start, over, end]: [Point; 3], labels: &[String]) {
    let path = format!("M{} {}Q{} {} {} {}", start.0, start.1, over.0, over.1, end.0, end.1);
    let style = "fill=\"none\" stroke=\"#456\" stroke-width=\"1.5\" marker-end=\"url(#tip)\"";
    *text += &format!("<path d=\"{path}\" {style}/>\n");
    // the middle of a quadratic curve
    let (x, y) = ((start.0 + 2 * over.0 + end.0) / 4, (start.1 + 2 * over.1 + end.1) / 4);
    let first = y - 8 * (labels.len() as i32 - 1);
    for (label, row) in labels.iter().zip(0..) {
        let line = first + 16 * row + 4;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "<text x=\"{x}\" y=\"{line}\" fill=\"#234\" stroke=\"#fff\" stroke-width=\"5\" \
             paint-order=\"stroke\">{label}</text>"
        );
    }
}

fn draw_phase(text: &mut String, phase: Phase) {
    let (x, y) = place(phase);
    let (left, top) = (x - WIDTH / 2, y - HEIGHT / 2);
    let (fill, border) = match phase {
        Phase::Shut => ("#dff3e3", "#2c7a43"),
        Phase::Broken => ("#fbe3e1", "#b3372c"),
        Phase::Open | Phase::Ended | Phase::Cut | Phase::Discarding => ("#eaf1f8", "#456"),
    };
    let width = if phase.is_final() { 3 } else { 1 };
    *text += &format!(
        "<rect x=\"{left}\" y=\"{top}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"8\" fill=\"{fill}\" \
         stroke=\"{border}\" stroke-width=\"{width}\"/>\n"
    );
    *text += &format!(
        "<text x=\"{x}\" y=\"{}\" font-size=\"16\" font-weight=\"bold\" fill=\"#123\">{phase:?}</text>\n",
        y + 6
    );
}
