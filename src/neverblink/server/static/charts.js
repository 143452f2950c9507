// Small line charts that show whether a number stays where it is.

const NS = "http://www.w3.org/2000/svg";
const POINTS = 300;  // the newest ones: five minutes at one a second

function svg(name, attributes, parent) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return parent.appendChild(element);
}

export class Chart {
  constructor(parent, { title, unit, digits = 0, floor = 1 }) {
    Object.assign(this, { unit, digits, floor, values: [], limit: 0 });
    const box = parent.appendChild(Object.assign(document.createElement("figure"), { className: "chart" }));
    box.append(Object.assign(document.createElement("h3"), { textContent: title }));
    this.output = box.appendChild(document.createElement("output"));
    this.small = box.appendChild(document.createElement("small"));
    this.svg = svg("svg", { viewBox: "0 0 300 56", preserveAspectRatio: "none", role: "img" }, box);
    this.title = svg("title", {}, this.svg);
    svg("line", { class: "base", x1: 0, x2: 300, y1: 55.5, y2: 55.5 }, this.svg);
    this.limitLine = svg("line", { class: "limit", x1: 0, x2: 300 }, this.svg);
    this.area = svg("path", { class: "area" }, this.svg);
    this.line = svg("path", { class: "line" }, this.svg);
    this.name = title;
    this.draw();
  }
  reset(values = []) {
    this.values = values.slice(-POINTS);
    this.draw();
  }
  add(value) {
    this.values.push(value);
    if (this.values.length > POINTS) this.values.shift();
    this.draw();
  }
  draw() {
    const { values, limit } = this;
    const last = values.at(-1);
    const most = Math.max(this.floor, ...values, limit) * 1.08;
    const text = (value) => `${value.toLocaleString("en", { maximumFractionDigits: this.digits, minimumFractionDigits: this.digits })}`;
    this.output.textContent = last === undefined ? "–" : text(last);
    this.small.textContent = ` ${this.unit}${limit ? ` of ${text(limit)}` : ""}`;
    const x = (i) => (values.length < 2 ? 300 : (300 * (i + POINTS - values.length)) / (POINTS - 1));
    const y = (value) => 55 - (55 * value) / most;
    const points = values.map((value, i) => `${x(i).toFixed(1)},${y(value).toFixed(1)}`);
    this.line.setAttribute("d", points.length > 1 ? `M${points.join("L")}` : "");
    this.area.setAttribute("d", points.length > 1 ? `M${x(0).toFixed(1)},55L${points.join("L")}L300,55Z` : "");
    this.limitLine.setAttribute("y1", y(limit));
    this.limitLine.setAttribute("y2", y(limit));
    this.limitLine.toggleAttribute("hidden", !limit);
    this.limitLine.style.display = limit ? "" : "none";
    this.title.textContent = last === undefined ? `${this.name}: no number yet` : `${this.name}: now ${text(last)} ${this.unit}, at most ${text(Math.max(...values))} in the last ${values.length} points`;
  }
}
