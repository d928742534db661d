(() => {
  const study = JSON.parse(document.getElementById("study").textContent);
  const isReading = study.mode === "reading";
  const store = isReading ? new Readings(study) : new Decisions(study);
  const { cards, classes } = study;
  const blind = store.blindMode;
  const $ = (id) => document.getElementById(id);
  const ZOOMS = [1, 1.5, 2, 3, 4];
  const look = { zoom: 1, brightness: 1, contrast: 1, other: 0 };
  const frames = [...document.querySelectorAll(".frame")];
  let downloaded = true;

  const make = (tag, className = "", text = "") => {
    const element = document.createElement(tag);
    element.className = className;
    element.textContent = text;
    return element;
  };
  const line = (className, ...parts) => {
    const paragraph = make("p", className);
    paragraph.append(...parts);
    return paragraph;
  };
  const chip = (name) => make("span", name === classes[0] ? "chip negative" : "chip positive", name);
  const tally = (group) => cards.filter((card) => card.group === group).length;
  const here = () => cards[store.position];

  // What the page says about itself.
  const doubtful = tally("suspicious")
    ? `${tally("suspicious")} suspicious views`
    : `${tally("candidate")} candidates (the audit suspects no view; these are its most voted ones)`;
  $("about").textContent = isReading
    ? `${cards.length} views, some real and some generated, in random order. The page does not know which are which.`
    : `${doubtful} and ${tally("control")} unsuspicious controls of the same labels, ` +
    (blind ? "in random order." : "from the most to the least voted.");
  const lack = tally("suspicious") ? "" : "The audit suspects no view; among these are its most voted ones. ";
  $("explanation").textContent = isReading
    ? "Fit: the anatomy is plausible, nothing in the view misleads, and nothing in it could name a person. Answer both for every view; what it is is not shown."
    : lack + (blind ? "You read blind: say what you see. Whether that keeps or flips the label follows from comparing your reading with it, and is shown afterwards." : "");

  // Reading.
  function showViews() {
    const card = here();
    const other = card.others[look.other % Math.max(1, card.others.length)];
    $("own").src = study.images[card.image];
    $("own-plane").textContent = card.plane;
    $("other").hidden = !other;
    $("alone").hidden = Boolean(other);
    if (other) $("other").src = study.images[other.image];
    const which = card.others.length > 1 ? ` (${(look.other % card.others.length) + 1} of ${card.others.length})` : "";
    $("other-plane").textContent = other
      ? `${other.same_frame ? "same frame" : "same organ side, another frame"}: ${other.plane}${which}`
      : "";
    $("next-other").hidden = card.others.length < 2;
    showLook();
  }

  function showLook() {
    for (const frame of frames) {
      const image = frame.querySelector("img");
      image.style.transform = look.zoom === 1 ? "" : `scale(${look.zoom})`;
      image.style.filter = `brightness(${look.brightness}) contrast(${look.contrast})`;
      frame.classList.toggle("zoomed", look.zoom > 1);
    }
    $("zoom").textContent = `${look.zoom}×`;
    $("brightness").value = look.brightness;
    $("contrast").value = look.contrast;
  }

  function showChoices() {
    const given = store.answered(here());
    [...$("choices").children].forEach((button, i) => {
      button.setAttribute("aria-pressed", String(i === given));
      button.setAttribute("aria-disabled", String(given >= 0));
    });
    $("next").disabled = given < 0;
    $("undo").disabled = store.count === 0;
  }

  function showReveal() {
    const card = here();
    const made = store.decided[card.id];
    const panel = $("reveal");
    panel.replaceChildren();
    $("shown-label").hidden = blind;
    if (!blind) $("shown-label").replaceChildren("Its label: ", chip(card.label));
    if (blind && !made) return;
    if (isReading) {
      panel.append(line("verdict", "Noted."));
      return;
    }
    if (!store.isRevealed(card)) {
      panel.append(
        line("verdict", "Noted."),
        line("caption", "Another view of this organ side is still to be read. Label and votes are shown after that, so that they cannot give it away."),
      );
      return;
    }
    if (blind) {
      panel.append(line("verdict", "Its label: ", chip(card.label)), line("outcome", outcome(card, made)));
    }
    const kinds = { suspicious: "suspicious", candidate: "candidate", control: "unsuspicious control" };
    panel.append(line("", `${kinds[card.group]}: ${card.votes} of ${card.evaluations} trainings flagged it`), voteDots(card));
    if (card.losses.length) {
      panel.append(
        trajectory(card.losses, study.threshold),
        line("caption", `training loss: mean and range over the trainings; dashed: threshold ${study.threshold}`),
      );
    }
  }

  function outcome(card, made) {
    if (made.decision === "discard") return "You discard the view.";
    if (made.decision === "unsure") return "You are unsure: it stays, and is reported as unsure.";
    return made.decision === "keep" ? "You read the same: it is kept." : `You read ${made.reading}: it is flipped.`;
  }

  function voteDots(card) {
    const dots = make("div", "votes");
    dots.setAttribute("aria-hidden", "true");
    for (let i = 0; i < card.evaluations; i++) dots.append(make("i", i < card.votes ? "yes" : ""));
    return dots;
  }

  function showCards() {
    [...$("cards").children].forEach((button, i) => {
      const given = store.answered(cards[i]);
      const noted = store.comments[cards[i].id] ? " noted" : "";
      button.className = (given < 0 ? "" : `a${given}`) + noted + (i === store.position ? " current" : "");
      const name = `View ${i + 1}: ${given < 0 ? "not decided" : store.answers[given].text}`;
      button.title = name;
      button.setAttribute("aria-label", name);
    });
  }

  function showProgress() {
    const share = store.count / cards.length;
    $("bar").style.width = `${100 * share}%`;
    $("progress").setAttribute("aria-valuemax", cards.length);
    $("progress").setAttribute("aria-valuenow", store.count);
    $("count").textContent = `${store.count} of ${cards.length} decided`;
    $("warning").hidden = store.kept;
    $("warning").textContent =
      "This browser does not keep your decisions: closing the page loses them. Download " + store.file + " (Summary) before you close it.";
  }

  function show() {
    const isShown = !blind || (store.decided[here().id] && store.isRevealed(here()));
    // Before that the name could give the label away: many an archive sorts its files by diagnosis.
    $("place").textContent = `View ${store.position + 1} of ${cards.length}` + (isShown ? ` · ${here().id}` : "");
    $("explanation").hidden = Boolean(store.decided[here().id]);
    $("comment").value = store.comments[here().id] ?? "";
    showViews();
    showChoices();
    showReveal();
    showCards();
    showProgress();
    if (!$("summary").hidden) showSummary();
  }

  function goTo(position) {
    store.position = (position + cards.length) % cards.length;
    Object.assign(look, { zoom: 1, other: 0 });
    store.save();
    openSummary(false);
    show();
  }

  function decide(i) {
    if (store.answered(here()) >= 0) return;
    store.decide(here(), store.answers[i]);
    downloaded = false;
    show();
  }

  function next() {
    if (!store.decided[here().id]) return;
    for (let step = 1; step < cards.length; step++) {
      const position = (store.position + step) % cards.length;
      if (!store.decided[cards[position].id]) return goTo(position);
    }
    openSummary(true);
  }

  function undo() {
    const card = !$("reading").hidden && store.decided[here().id] ? here() : store.latest;
    if (!card) return;
    store.takeBack(card);
    downloaded = false;
    goTo(cards.indexOf(card));
  }

  // Summary.
  function openSummary(open) {
    $("summary").hidden = !open;
    $("reading").hidden = open;
    if (open) showSummary();
  }

  function showSummary() {
    const complete = store.count === cards.length;
    $("summary-title").textContent = complete ? "All views are decided. Thank you." : "So far";
    $("summary-text").textContent = complete
      ? "Download the file; you can still go back and change decisions before you do."
      : `${store.count} of ${cards.length} views are decided. ` +
        (isReading ? "The file can be used once all are." : "Views without a decision are not in the file and keep their label.");
    // Before the end, keep and flip by group would tell a blind reader about labels that she has not seen.
    const byGroup = !isReading && (complete || !blind);
    const columns = byGroup ? ["keep", "flip", "discard", "unsure"] : store.answers.map((answer) => answer.short);
    const value = (card) => (byGroup ? store.decided[card.id]?.decision : store.answers[store.answered(card)]?.short);
    const names = { suspicious: "suspicious", candidate: "candidates", control: "controls" };
    const groups = byGroup ? Object.keys(names).filter(tally) : [];
    const row = (title, chosen, className = "") => {
      const cells = [title, ...columns.map((column) => chosen.filter((card) => value(card) === column).length), chosen.length];
      const tr = make("tr", className);
      tr.append(...cells.map((cell) => make("td", "", cell)));
      return tr;
    };
    const head = make("tr");
    head.append(...["", ...columns, "views"].map((name) => make("th", "", name)));
    $("summary-head").replaceChildren(head);
    $("summary-body").replaceChildren(
      ...groups.map((group) => row(names[group], cards.filter((card) => card.group === group))),
      row("all", cards, "total"),
    );
    const shown = Object.values(store.decided).filter((made) => !made.blind).length;
    $("summary-note").textContent =
      blind && shown ? `${shown} decided again after the label had been shown; the file marks them (blind = 0).` : "";
    $("download").disabled = store.count === 0;
  }

  function download() {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([store.csv], { type: "text/csv;charset=utf-8" }));
    link.download = store.file;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    downloaded = true;
  }

  // The first press arms the button, the second one deletes.
  function restart() {
    const button = $("restart");
    if (!button.classList.toggle("armed")) {
      store.clear();
      store.save();
      goTo(0);
    }
    button.textContent = button.classList.contains("armed") ? "Really delete? Press again" : "Delete all decisions";
  }

  function setZoom(zoom) {
    look.zoom = zoom;
    showLook();
  }

  function stepZoom(step) {
    const i = ZOOMS.findIndex((zoom) => zoom >= look.zoom);
    setZoom(ZOOMS[Math.max(0, Math.min(ZOOMS.length - 1, i + step))]);
  }

  function plain() {
    Object.assign(look, { zoom: 1, brightness: 1, contrast: 1 });
    showLook();
  }

  function nextOther() {
    look.other += 1;
    showViews();
  }

  // Keys.
  const actions = {
    Enter: next,
    ArrowRight: () => goTo(store.position + 1),
    ArrowLeft: () => goTo(store.position - 1),
    z: undo,
    Backspace: undo,
    c: () => $("reading").hidden || $("comment").focus(),
    v: nextOther,
    "+": () => stepZoom(1),
    "=": () => stepZoom(1),
    "-": () => stepZoom(-1),
    0: plain,
    s: () => openSummary(true),
    "?": () => $("help").showModal(),
    Escape: () => openSummary(false),
  };
  store.answers.forEach((answer, i) => answer.keys.forEach((key) => (actions[key] = () => $("reading").hidden || decide(i))));

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || $("help").open) return;
    if (event.target === $("comment")) {
      if (event.key === "Escape") $("comment").blur();
      return;
    }
    const isButton = event.target instanceof HTMLButtonElement;
    if (isButton && (event.key === "Enter" || event.key === " ")) return;
    if (event.target instanceof HTMLInputElement && event.key.startsWith("Arrow")) return;
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    if (!event.repeat) action();
  });

  // Mouse.
  store.answers.forEach((answer, i) => {
    const button = make("button", `a${i}`);
    button.type = "button";
    button.append(make("span", "", answer.text), ...answer.keys.map((key) => make("kbd", "", key)));
    button.addEventListener("click", () => decide(i));
    $("choices").append(button);
  });
  cards.forEach((card, i) => {
    const button = make("button");
    button.type = "button";
    button.addEventListener("click", () => goTo(i));
    $("cards").append(button);
  });
  const clicks = {
    next, undo, download, restart, plain,
    "next-other": nextOther,
    "to-summary": () => openSummary(true),
    "to-help": () => $("help").showModal(),
    "close-help": () => $("help").close(),
    back: () => openSummary(false),
    larger: () => stepZoom(1),
    smaller: () => stepZoom(-1),
  };
  for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", action);
  // A button pressed with the mouse must not keep the keys.
  document.addEventListener("click", (event) => event.detail && event.target.closest("button")?.blur());
  for (const frame of frames) {
    const aim = (event) => {
      const box = frame.getBoundingClientRect();
      const share = (offset, size) => `${Math.max(0, Math.min(100, (100 * offset) / size))}%`;
      frame.querySelector("img").style.transformOrigin =
        `${share(event.clientX - box.left, box.width)} ${share(event.clientY - box.top, box.height)}`;
    };
    frame.addEventListener("mousemove", aim);
    frame.addEventListener("click", (event) => {
      aim(event);
      setZoom(look.zoom > 1 ? 1 : 2);
    });
  }
  for (const id of ["brightness", "contrast"]) {
    $(id).addEventListener("input", () => {
      look[id] = Number($(id).value);
      showLook();
    });
    $(id).addEventListener("change", () => $(id).blur());
  }

  $("comment").addEventListener("input", () => {
    store.comments[here().id] = $("comment").value;
    downloaded = false;
    store.save();
    showCards();
    showProgress();
  });
  // The same page in another tab decides the same views.
  window.addEventListener("storage", (event) => {
    if (event.key !== store.name) return;
    const position = store.position;
    store.load();
    store.position = position;
    show();
  });
  window.addEventListener("beforeunload", (event) => {
    if (!store.kept && !downloaded) event.preventDefault();
  });

  const help = [
    ...store.answers.map((answer) => [answer.keys, answer.text]),
    [["Enter"], "next view that is not decided"],
    [["←", "→"], "one view back, one on"],
    [["z", "Backspace"], "take back the decision shown, or else the last one"],
    [["c"], "comment; Esc goes back to the keys"],
    [["+", "−", "click"], "zoom; the mouse moves the detail"],
    ...(isReading ? [] : [[["v"], "next other view of the organ side"]]),
    [["0"], "zoom, brightness and contrast back to normal"],
    [["s"], "summary and download"],
  ];
  for (const [keys, text] of help) {
    const term = make("dt");
    term.append(...keys.map((key) => make("kbd", "", key)));
    $("keys").append(term, make("dd", "", text));
  }
  show();
  if (store.count === cards.length) openSummary(true);
})();
