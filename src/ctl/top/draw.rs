//! The screen as lines. It fits 24 lines of 80 columns, says nothing by colour alone, and changes few cells from one drawing to the next.

use ratatui::Frame;
use ratatui::layout::{Constraint, Flex, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span as Piece};
use ratatui::widgets::{Block, Clear, Paragraph, Wrap};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::super::events::said;
use super::super::members::service_lines;
use super::super::time;
use super::gather::{Row, StoreLine};
use super::state::Screen;
use crate::model::{Moment, Span};

/// What the terminal can show.
#[derive(Clone, Copy, Debug)]
pub struct Looks {
    pub colour: bool,
    /// Beyond ASCII.
    pub unicode: bool,
}

const KEYS: &str = "up/down choose  s switchover  p pause  r restart  i reinit  ? help  q quit";
const HELP: &str = "up, down   choose the member that the letters act on\n\
s          hand over: to the chosen replica, or from the leader to whoever is best placed\n\
p          begin or end maintenance mode\n\
r          restart PostgreSQL of the chosen member\n\
i          throw the chosen replica's data away and copy it again\n\
q          quit\n\n\
Nothing is done before you have confirmed it with y.\n\
lease: how long the leader may act on what the store has confirmed; it is full again with each renewal.\n\
fence: how long until the guardian kills its PostgreSQL, if no renewal comes.\n\
lag: bytes of WAL that the member does not have yet, and how it was before.";
const BAR: usize = 30;
const SPARKS: usize = 16;
/// A lag below it is drawn as the lowest step.
const SPARK_FLOOR: u64 = 64 << 10;
const REMARKS_MAX: usize = 3;
/// What stands above and below members and events.
const MEMBERS_SPARE: u16 = 15;

pub fn draw(frame: &mut Frame, screen: &Screen, looks: Looks, now: Moment) {
    let area = frame.area();
    let width = usize::from(area.width);
    let remarks = remarks(screen);
    let shown =
        screen.look.rows.len().max(1).min(usize::from(area.height.saturating_sub(MEMBERS_SPARE).max(1)));
    let part = |lines: usize| Constraint::Length(u16::try_from(lines).unwrap_or(u16::MAX));
    let [head, notes, members, term, rule, events, message, keys] = Layout::vertical([
        part(2),
        part(remarks.len()),
        part(shown + 2),
        part(3),
        part(3),
        Constraint::Min(1),
        part(1),
        part(1),
    ])
    .areas(area);
    frame.render_widget(
        Paragraph::new(vec![headline(screen, width), store_line(&screen.look.store, looks)]),
        head,
    );
    frame.render_widget(Paragraph::new(remarks.into_iter().map(Line::from).collect::<Vec<_>>()), notes);
    frame.render_widget(Paragraph::new(table(screen, shown, width, looks)), members);
    frame.render_widget(Paragraph::new(term_lines(screen, looks, now)), term);
    frame.render_widget(Paragraph::new(rule_of_chosen(screen)).wrap(Wrap { trim: true }), rule);
    frame.render_widget(Paragraph::new(event_lines(screen, events, looks)), events);
    let said = screen
        .under_way
        .as_ref()
        .map(|act| format!("asked for: {act} …"))
        .filter(|_| screen.message.is_empty());
    frame.render_widget(
        Paragraph::new(fitted(&said.unwrap_or_else(|| screen.message.clone()), width, looks)),
        message,
    );
    frame.render_widget(Paragraph::new(Line::from(KEYS).style(faint())), keys);
    if screen.shows_help {
        popup(frame, "Help", HELP, looks);
    } else if let Some(dialog) = &screen.dialog {
        popup(
            frame,
            "Are you sure?",
            &format!("{}\n\ny: do it    any other key: leave it", dialog.question),
            looks,
        );
    }
}

fn headline(screen: &Screen, width: usize) -> Line<'static> {
    let cluster = &screen.look.cluster;
    let led = match (&cluster.leader, screen.looks) {
        (Some(leader), _) => format!("led by {leader}"),
        (None, 0) => "looking …".to_owned(),
        (None, _) => "NOBODY LEADS".to_owned(),
    };
    let left =
        format!("{} ({})  {led}", cluster.scope, cluster.initialize.as_deref().unwrap_or("uninitialized"));
    let right = time::stamp_in_seconds();
    let gap = width.saturating_sub(left.width() + right.width()).max(1);
    Line::from(format!("{left}{}{right}", " ".repeat(gap))).style(Style::new().add_modifier(Modifier::BOLD))
}

fn store_line(store: &StoreLine, looks: Looks) -> Line<'static> {
    let StoreLine { whereabouts, answer, servers, alarms } = store;
    let mut text = match answer {
        None => whereabouts.clone(),
        Some(Ok(after)) => format!("{whereabouts}: answers in {after}"),
        Some(Err(why)) => format!("NO STORE: {why}"),
    };
    if let Some((answering, of, leader)) = servers {
        text += &format!(", {answering} of {of} servers");
        text += &leader.as_ref().map(|name| format!(", {name} leads them")).unwrap_or_default();
    }
    for alarm in alarms {
        text += &format!(", ALARM {alarm}");
    }
    let is_well = matches!(answer, None | Some(Ok(_))) && alarms.is_empty();
    Line::from(text).style(if is_well { Style::new() } else { bad(looks) })
}

/// Maintenance, schedules and clones, as `list` tells them; too many are counted.
fn remarks(screen: &Screen) -> Vec<String> {
    let all = service_lines(&screen.look.cluster);
    let mut lines: Vec<String> =
        all.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    if REMARKS_MAX < lines.len() {
        let more = lines.len() - (REMARKS_MAX - 1);
        lines.truncate(REMARKS_MAX - 1);
        lines.push(format!("… and {more} more: `tenurectl list`"));
    }
    lines
}

fn table(screen: &Screen, shown: usize, width: usize, looks: Looks) -> Vec<Line<'static>> {
    let rows = &screen.look.rows;
    let longest = rows.iter().map(|row| row.name.width()).max().unwrap_or(0);
    // What the other columns leave of the line.
    let name = longest.clamp(6, width.saturating_sub(66).max(8));
    let head =
        format!("  {:name$}  {:14} {:12} {:>3} {:>9}  history", "Member", "Role", "State", "TL", "Lag");
    let mut lines = vec![Line::from(head).style(Style::new().add_modifier(Modifier::UNDERLINED))];
    // The chosen one is always in sight.
    let first = (screen.chosen + 1).saturating_sub(shown);
    for (place, row) in rows.iter().enumerate().skip(first).take(shown) {
        let mark = if place == screen.chosen { ">" } else { " " };
        let cells = format!(
            "{mark} {}  {:14} {} {:>3} {:>9}  ",
            padded(&row.name, name, looks),
            row.role,
            padded(state(row), 12, looks),
            row.timeline,
            row.lag.map(bytes).unwrap_or_default(),
        );
        let mut style =
            if place == screen.chosen { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        if !row.answers {
            style = style.patch(bad(looks));
        } else if row.leads {
            style = style.add_modifier(Modifier::BOLD);
        }
        lines.push(Line::from(vec![Piece::styled(cells, style), Piece::raw(sparks(screen, row, looks))]));
    }
    if rows.is_empty() && 0 < screen.looks {
        lines
            .push(Line::from("  nobody is in the store: look at the agents with `systemctl status tenured`"));
    }
    lines
}

fn state(row: &Row) -> &str {
    if row.answers || row.state == "gone" { &row.state } else { "SILENT" }
}

/// The lags of the last looks, each beside the highest that is shown.
fn sparks(screen: &Screen, row: &Row, looks: Looks) -> String {
    let steps: [char; 8] = if looks.unicode {
        ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█']
    } else {
        ['.', ':', '-', '=', '+', '*', '#', '@']
    };
    let Some(lags) = screen.lags.get(&row.name).filter(|_| !row.leads) else { return String::new() };
    let latest = lags.iter().skip(lags.len().saturating_sub(SPARKS));
    let most = latest.clone().flatten().copied().max().unwrap_or(0).max(SPARK_FLOOR);
    let step = |lag: &Option<u64>| match lag {
        None => ' ',
        Some(lag) => {
            let place = u128::from(*lag) * 7 / u128::from(most);
            steps[usize::try_from(place).unwrap_or(7).min(7)]
        }
    };
    latest.map(step).collect()
}

/// The leader's lease and fence run down until the next renewal is told.
fn term_lines(screen: &Screen, looks: Looks, now: Moment) -> Vec<Line<'static>> {
    let Some((row, term)) = screen.leading_row().and_then(|row| Some((row, row.term?))) else {
        let why = screen.leading_row().map_or_else(String::new, |row| format!(" of {}: not told", row.name));
        return vec![Line::default(), Line::from(format!("lease{why}")), Line::from(format!("fence{why}"))];
    };
    let age = screen.age(now);
    let line = |what: &str, (left, whole): (Span, Span), remark: String| {
        let left = left.minus(age);
        Line::from(format!(
            "{what}  {}  {:>6} of {:<7} {remark}",
            bar(left, whole, looks),
            left.to_string(),
            whole.to_string()
        ))
    };
    vec![
        Line::default(),
        line("lease", term.lease, format!("{}, term {}", row.name, term.term)),
        line("fence", term.fence, row.fence.clone()),
    ]
}

fn bar(left: Span, whole: Span, looks: Looks) -> String {
    let (full, empty) = if looks.unicode { ('█', '░') } else { ('#', '-') };
    let cells = u64::try_from(BAR).unwrap_or(0).saturating_mul(left.as_ms()).div_ceil(whole.as_ms().max(1));
    let cells = usize::try_from(cells).unwrap_or(BAR).min(BAR);
    let cell = |place: usize| if place < cells { full } else { empty };
    (0..BAR).map(cell).collect()
}

fn rule_of_chosen(screen: &Screen) -> Vec<Line<'static>> {
    let Some(row) = screen.chosen_row() else { return Vec::new() };
    vec![Line::default(), Line::from(format!("{}: {}", row.name, row.rule))]
}

/// The latest ones that there is room for.
fn event_lines(screen: &Screen, area: Rect, looks: Looks) -> Vec<Line<'static>> {
    let (width, room) = (usize::from(area.width), usize::from(area.height).saturating_sub(1));
    let mut lines = vec![Line::from("Events").style(Style::new().add_modifier(Modifier::UNDERLINED))];
    let events = &screen.look.events;
    for entry in events.iter().skip(events.len().saturating_sub(room)) {
        let at = time::told(entry.unix_ms);
        let at = at.split_once(' ').map_or(at.as_str(), |(_, clock)| clock);
        lines.push(Line::from(fitted(&format!("{at}  {}  {}", entry.member, said(entry)), width, looks)));
    }
    if events.is_empty() && 0 < screen.looks {
        lines.push(Line::from("nothing was decided anew in the last quarter of an hour").style(faint()));
    }
    lines
}

fn popup(frame: &mut Frame, title: &str, text: &str, looks: Looks) {
    let area = frame.area();
    let width = area.width.saturating_sub(8).min(84);
    let lines = wrapped(text, usize::from(width.saturating_sub(4)));
    let height = u16::try_from(lines.len() + 2).unwrap_or(u16::MAX).min(area.height);
    let [row] = Layout::vertical([Constraint::Length(height)]).flex(Flex::Center).areas(area);
    let [place] = Layout::horizontal([Constraint::Length(width)]).flex(Flex::Center).areas(row);
    let mut block =
        Block::bordered().title(format!(" {title} ")).padding(ratatui::widgets::Padding::horizontal(1));
    if !looks.unicode {
        block = block.border_set(ratatui::symbols::border::Set {
            top_left: "+",
            top_right: "+",
            bottom_left: "+",
            bottom_right: "+",
            vertical_left: "|",
            vertical_right: "|",
            horizontal_top: "-",
            horizontal_bottom: "-",
        });
    }
    frame.render_widget(Clear, place);
    let lines: Vec<Line> = lines.into_iter().map(Line::from).collect();
    frame.render_widget(Paragraph::new(lines).block(block), place);
}

/// Broken between words. What comes in columns goes on below its second one.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let indent =
            line.find("  ").map_or(0, |gap| gap + line[gap..].len() - line[gap..].trim_start().len());
        let mut rest = line.to_owned();
        while width < rest.width() {
            let fits = |(at, _): &(usize, &str)| indent < *at && rest[..*at].width() <= width;
            let Some((at, _)) = rest
                .match_indices(' ')
                .take_while(|(at, _)| rest[..*at].width() <= width)
                .filter(fits)
                .last()
            else {
                break;
            };
            lines.push(rest[..at].to_owned());
            rest = format!("{}{}", " ".repeat(indent), &rest[at + 1..]);
        }
        lines.push(rest);
    }
    lines
}

fn bad(looks: Looks) -> Style {
    let style = Style::new().add_modifier(Modifier::BOLD);
    if looks.colour { style.fg(Color::Red) } else { style }
}

fn faint() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

/// Cut to the width, with a mark where something is missing.
fn fitted(text: &str, width: usize, looks: Looks) -> String {
    // What is not printed takes no room, and must not reach a terminal.
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.width() <= width {
        return text;
    }
    let mark = if looks.unicode { '…' } else { '~' };
    let mut cut = String::new();
    for character in text.chars() {
        if width < cut.width() + character.width().unwrap_or(0) + 1 {
            break;
        }
        cut.push(character);
    }
    cut.push(mark);
    cut
}

fn padded(text: &str, width: usize, looks: Looks) -> String {
    let text = fitted(text, width, looks);
    let gap = width.saturating_sub(text.width());
    text + &" ".repeat(gap)
}

/// As people say it: `0 B`, `512 kB`, `3 MB`.
fn bytes(count: u64) -> String {
    match count {
        0..=9_999 => format!("{count} B"),
        10_000..=10_239_999 => format!("{} kB", count >> 10),
        10_240_000..=10_485_759_999 => format!("{} MB", count >> 20),
        _ => format!("{} GB", count >> 30),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::Buffer;

    use super::super::state::fixtures::screen;
    use super::*;
    use crate::ctl::top::state::Screen;

    const PLAIN: Looks = Looks { colour: false, unicode: false };

    fn drawn(screen: &Screen, looks: Looks, width: u16, height: u16) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| draw(frame, screen, looks, Moment::from_ms(2000))).expect("drawn");
        terminal.backend().buffer().clone()
    }

    fn lines(buffer: &Buffer) -> Vec<String> {
        let width = usize::from(buffer.area.width);
        let row = |cells: &[ratatui::buffer::Cell]| {
            cells.iter().map(ratatui::buffer::Cell::symbol).collect::<String>()
        };
        buffer.content.chunks(width).map(|cells| row(cells).trim_end().to_owned()).collect()
    }

    #[test]
    fn everything_fits_the_smallest_terminal() {
        let mut screen = screen(&[("config", r#"{"pause":true}"#)]);
        screen.message = "switchover to b: done".to_owned();
        let mut lines = lines(&drawn(&screen, PLAIN, 80, 24));
        assert!(lines[0].starts_with("batman (7431234567890123456)  led by a  "), "{}", lines[0]);
        lines[0].clear();
        let wanted = "
etcd at 10.0.0.1:2379: answers in 3 ms, 3 of 3 servers, e1 leads them
Maintenance mode: on
  Member  Role           State         TL       Lag  history
> a       Leader         running        2
  b       Replica        streaming      2       0 B  .
  c       Replica        streaming      2   3072 kB  @


lease  ############------------------     4 s of 10 s    a, term 17
fence  ####################----------     8 s of 12 s    guardian: ready

a: rule_of_a: does what a does

Events
nothing was decided anew in the last quarter of an hour






switchover to b: done
up/down choose  s switchover  p pause  r restart  i reinit  ? help  q quit";
        assert_eq!(lines.join("\n"), wanted);
    }

    #[test]
    fn without_colour_there_is_none_and_without_unicode_all_is_ascii() {
        for letter in ['x', 's', '?'] {
            let mut screen = screen(&[]);
            screen.look.rows[1].answers = false;
            screen.look.store.answer = Some(Err("no answer within 2 s".to_owned()));
            screen.key(crossterm::event::KeyEvent::from(crossterm::event::KeyCode::Char(letter)));
            let plain = drawn(&screen, PLAIN, 80, 24);
            for cell in plain.content() {
                assert!(
                    cell.fg == Color::Reset && cell.bg == Color::Reset && cell.symbol().is_ascii(),
                    "{cell:?}"
                );
            }
            let text = lines(&plain).join("\n");
            // Whatever is red is told in words as well.
            assert!(text.contains("NO STORE: no answer"), "{text}");
            assert!(letter != 'x' || text.contains("SILENT"), "{text}");
            let coloured = drawn(&screen, Looks { colour: true, unicode: true }, 80, 24);
            assert!(coloured.content().iter().any(|cell| cell.fg == Color::Red));
        }
    }

    #[test]
    fn a_question_is_whole_and_the_chosen_member_in_sight() {
        let mut screen = screen(&[]);
        screen.key(crossterm::event::KeyEvent::from(crossterm::event::KeyCode::Char('s')));
        let text = lines(&drawn(&screen, PLAIN, 80, 24)).join("\n");
        for part in ["Are you sure?", "Hand over from a to whoever is best placed?", "y: do it"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        screen.dialog = None;
        let row = screen.look.rows[2].clone();
        for number in 0..30 {
            screen.look.rows.push(Row { name: format!("member-number-{number}"), ..row.clone() });
        }
        screen.chosen = 32;
        let text = lines(&drawn(&screen, PLAIN, 80, 24)).join("\n");
        assert!(
            text.contains("> member-number~") && text.contains("lease  ####") && text.contains("q quit"),
            "{text}"
        );
        // A terminal that shows almost nothing ends nothing.
        for (width, height) in [(1, 1), (20, 5), (79, 10), (300, 80)] {
            drawn(&screen, PLAIN, width, height);
        }
    }

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrapped("a bc def\n\ng", 4), ["a bc", "def", "", "g"]);
        assert_eq!(wrapped("r   restart it now", 14), ["r   restart it", "    now"]);
        assert_eq!(wrapped("unbreakable", 4), ["unbreakable"]);
    }

    #[test]
    fn what_others_have_written_cannot_command_the_terminal() {
        assert_eq!(fitted("a\u{1b}[2Jb", 80, PLAIN), "a [2Jb");
        assert_eq!(fitted("turku", 4, PLAIN), "tur~");
        assert_eq!(fitted("日本語", 5, Looks { colour: false, unicode: true }), "日本…");
        assert_eq!([0, 512 << 10, 30 << 20, 12 << 30].map(bytes), ["0 B", "512 kB", "30 MB", "12 GB"]);
    }
}
