"use strict";

// A view's training loss over the epochs as SVG: mean and range over its runs, and the threshold of the vote.
// `rows` are [epoch, mean, low, high].
function trajectory(rows, threshold) {
  const [width, height, left, right, top, bottom] = [320, 122, 26, 8, 8, 26];
  const epochs = rows.map((row) => row[0]);
  const [first, last] = [Math.min(...epochs), Math.max(...epochs)];
  const peak = 1.08 * Math.max(threshold, ...rows.map((row) => row[3]));
  const x = (epoch) => left + ((width - left - right) * (epoch - first)) / Math.max(1, last - first);
  const y = (loss) => height - bottom - ((height - top - bottom) * loss) / peak;
  const line = (points) => points.map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`).join(" ");

  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "training loss by epoch" });
  const text = (content, attributes) => {
    const label = shape("text", attributes);
    label.textContent = content;
    svg.append(label);
  };
  const floor = height - bottom;
  const upper = rows.map((row) => [x(row[0]), y(row[3])]);
  const lower = rows.map((row) => [x(row[0]), y(row[2])]).reverse();
  svg.append(
    shape("line", { class: "axis", x1: left, x2: width - right, y1: floor, y2: floor }),
    shape("line", { class: "axis", x1: left, x2: left, y1: top, y2: floor }),
    shape("polygon", { class: "range", points: line([...upper, ...lower]) }),
    shape("polyline", { class: "mean", points: line(rows.map((row) => [x(row[0]), y(row[1])])) }),
    shape("line", { class: "threshold", x1: left, x2: width - right, y1: y(threshold), y2: y(threshold) }),
  );
  if (rows.length === 1) svg.append(shape("circle", { class: "one", cx: x(first), cy: y(rows[0][1]), r: 3 }));
  text("0", { x: left - 5, y: floor + 3, "text-anchor": "end" });
  text(String(threshold), { class: "threshold-text", x: left - 5, y: y(threshold) + 3, "text-anchor": "end" });
  text(String(first), { x: left, y: floor + 12, "text-anchor": "middle" });
  if (last > first) text(String(last), { x: width - right, y: floor + 12, "text-anchor": "end" });
  text("epoch", { x: (left + width - right) / 2, y: floor + 20, "text-anchor": "middle" });
  return svg;
}

function shape(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
