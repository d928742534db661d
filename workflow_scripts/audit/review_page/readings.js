// A blind reading of generated views among real ones: two answers to each view, and nothing is shown afterwards.
// A decision is {decision: yes | no (fit to be shared), reading: real | generated, at}.
class Readings extends Decisions {
  get answers() {
    const pairs = ["real", "generated"].flatMap((reading) => ["yes", "no"].map((decision) => ({ reading, decision })));
    return pairs.map(({ reading, decision }, i) => {
      const fit = decision === "yes" ? "fit" : "not fit";
      return { reading, decision, text: `${reading}, ${fit} to be shared`, short: `${reading}, ${fit}`, keys: [String(i + 1)] };
    });
  }

  get file() {
    return "readings.csv";
  }

  decide(card, answer) {
    this.decided[card.id] = { decision: answer.decision, reading: answer.reading, blind: true, at: new Date().toISOString() };
    this.save();
  }

  answered(card) {
    const made = this.decided[card.id];
    return this.answers.findIndex((answer) => made && answer.reading === made.reading && answer.decision === made.decision);
  }

  isRevealed() {
    return false;
  }

  get rows() {
    const read = this.study.cards.filter((card) => this.decided[card.id]);
    return [
      ["page", "view", "reading", "fit", "comment", "read_at"],
      ...read.map((card) => {
        const made = this.decided[card.id];
        return [this.study.fingerprint, card.id, made.reading, made.decision, this.comments[card.id] ?? "", made.at];
      }),
    ];
  }
}
