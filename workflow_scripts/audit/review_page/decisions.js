// What has been decided, kept in the browser under a name that only this very study has.
// A decision is {decision, reading, blind, at}; `seen` lists the views whose label has been in view.
class Decisions {
  constructor(study) {
    this.study = study;
    this.blindMode = study.mode !== "open";
    this.name = `label-review-${study.fingerprint}`;
    this.clear();
    this.kept = this.load() && this.save();
  }

  clear() {
    this.decided = {};
    this.comments = {};
    this.seen = {};
    this.position = 0;
  }

  // False where the browser keeps nothing (a private window, or storage switched off).
  load() {
    let text;
    try {
      text = localStorage.getItem(this.name);
    } catch {
      return false;
    }
    if (text) {
      try {
        const { decided, comments, seen, position } = JSON.parse(text);
        Object.assign(this, { decided, comments, seen, position: Math.min(position, this.study.cards.length - 1) });
      } catch {
        this.clear();
      }
    }
    return true;
  }

  save() {
    const { decided, comments, seen, position } = this;
    try {
      localStorage.setItem(this.name, JSON.stringify({ decided, comments, seen, position }));
      this.kept = true;
    } catch {
      this.kept = false;
    }
    return this.kept;
  }

  // The four answers, in the order of their keys. Blind, the first two are the classes themselves.
  get answers() {
    const first = this.blindMode
      ? this.study.classes.map((name) => ({ reading: name, text: name, short: name, keys: [] }))
      : [
          { decision: "keep", text: "keep the label", short: "keep", keys: ["k"] },
          { decision: "flip", text: "flip the label", short: "flip", keys: ["f"] },
        ];
    const others = [
      { decision: "discard", text: "discard: not usable", short: "discard", keys: ["d"] },
      { decision: "unsure", text: "unsure", short: "unsure", keys: ["u"] },
    ];
    return [...first, ...others].map((answer, i) => ({ ...answer, keys: [String(i + 1), ...answer.keys] }));
  }

  get file() {
    return "decisions.csv";
  }

  decide(card, answer) {
    const reading = answer.reading ?? "";
    this.decided[card.id] = {
      decision: reading ? (reading === card.label ? "keep" : "flip") : answer.decision,
      reading,
      blind: this.blindMode && !this.seen[card.id],
      at: new Date().toISOString(),
    };
    for (const other of this.study.cards) if (this.isRevealed(other)) this.seen[other.id] = true;
    this.save();
  }

  takeBack(card) {
    delete this.decided[card.id];
    this.save();
  }

  // Which of the four answers was given, or -1.
  answered(card) {
    const made = this.decided[card.id];
    if (!made) return -1;
    return this.answers.findIndex((answer) => (made.reading ? answer.reading === made.reading : answer.decision === made.decision));
  }

  // The views of an organ side share their label: the first one's would tell the reader the second one's.
  isRevealed(card) {
    return !this.blindMode || this.waitingFor(card).length === 0;
  }

  waitingFor(card) {
    return this.study.cards.filter((other) => other.organ_side === card.organ_side && !this.decided[other.id]);
  }

  get count() {
    return this.study.cards.filter((card) => this.decided[card.id]).length;
  }

  // The decided card that was decided last.
  get latest() {
    const made = this.study.cards.filter((card) => this.decided[card.id]);
    return made.reduce((a, b) => (!a || this.decided[b.id].at >= this.decided[a.id].at ? b : a), undefined);
  }

  get rows() {
    const lines = [["view_id", "label", "decision", "reading", "blind", "comment", "reviewed_at"]];
    for (const card of this.study.cards) {
      const made = this.decided[card.id];
      if (!made) continue;
      const comment = this.comments[card.id] ?? "";
      lines.push([card.id, card.label, made.decision, made.reading, made.blind ? "1" : "0", comment, made.at]);
    }
    return lines;
  }

  // RFC 4180, with the mark by which spreadsheets know UTF-8.
  get csv() {
    return "\ufeff" + this.rows.map((cells) => cells.map(Decisions.cell).join(",") + "\r\n").join("");
  }

  // An apostrophe keeps a spreadsheet from taking a comment for a formula; the workflow takes it off again.
  static cell(text) {
    const safe = /^[=+\-@\t\r\n']/.test(text) ? `'${text}` : text;
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }
}
