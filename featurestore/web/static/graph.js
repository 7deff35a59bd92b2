// Draws what /api/graph answers. Colours come from the style sheet, so that dark mode has its own.
const form = document.getElementById("graph-form");
const said = document.getElementById("graph-said");
const list = document.getElementById("graph-list");
const names = document.getElementById("graph-names");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const COLOURS = {
  source: "--c7", request_source: "--c7", snapshot: "--c7", entity: "--c5", view: "--c0", on_demand_view: "--c6",
  feature: "--c0", service: "--c3", training_set: "--c2", run: "--c1", model: "--c4",
};

const drawing = cytoscape({
  container: document.getElementById("graph"),
  style: [
    {
      selector: "node",
      style: {
        shape: "round-rectangle", height: 26, padding: "6px", label: "data(label)",
        width: (node) => 12 + 7 * node.data("label").length,
        "font-size": 12, "text-valign": "center", color: colour("--ink"), "border-width": 2,
        "background-color": colour("--paper"), "border-color": (node) => colour(COLOURS[node.data("kind")] ?? "--quiet"),
      },
    },
    { selector: "node[kind = 'service'], node[kind = 'model']", style: { shape: "cut-rectangle" } },
    { selector: "node.focus", style: { "border-width": 4, "font-weight": "bold" } },
    { selector: ".faded", style: { opacity: 0.2 } },
    {
      selector: "edge",
      style: {
        width: 1.4, "curve-style": "bezier", "target-arrow-shape": "triangle", "arrow-scale": 0.8,
        "line-color": colour("--quiet"), "target-arrow-color": colour("--quiet"),
      },
    },
    { selector: "edge[transformation = 'INDIRECT']", style: { "line-style": "dashed", opacity: 0.6 } },
  ],
});
window.drawing = drawing;

// Of two answers that overtake each other, the one that was asked for last is drawn.
let asked = 0;

async function draw() {
  const mine = ++asked;
  const fields = new FormData(form);
  const address = new URL("/api/graph", location.href);
  if (fields.get("focus")) address.searchParams.set("focus", fields.get("focus"));
  if (fields.get("direct")) address.searchParams.set("direct", "true");
  const kinds = fields.getAll("kind");
  if (kinds.includes("feature")) address.searchParams.set("features", "true");
  if (kinds.length < form.querySelectorAll("[name=kind]").length) {
    for (const kind of kinds.length ? kinds : ["none"]) address.searchParams.append("kind", kind);
  }
  const answer = await fetch(address);
  const graph = await answer.json();
  if (mine !== asked) return;
  said.classList.toggle("problem", !answer.ok);
  if (!answer.ok) {
    said.textContent = graph.error.message;
    return;
  }
  drawing.elements().remove();
  drawing.add([
    ...graph.nodes.map((node) => ({ data: node, classes: node.id === graph.focus ? "focus" : "" })),
    ...graph.links.map((link) => ({ data: { ...link, id: `${link.source}>${link.target}` } })),
  ]);
  drawing.layout({ name: "dagre", rankDir: "LR", nodeSep: 14, rankSep: 70 }).run();
  show();
  said.textContent = `${graph.nodes.length} nodes, ${graph.links.length} links` +
    (graph.hidden ? `; ${graph.hidden} more are too many to draw: focus on one thing, or show fewer kinds` : "");
  const line = (node) => {
    const item = document.createElement("li");
    const link = document.createElement("a");
    link.href = node.url;
    link.textContent = node.name;
    item.append(`${node.kind.replaceAll("_", " ")} `, link);
    return item;
  };
  list.replaceChildren(...graph.nodes.map(line));
  document.body.dataset.drawn = String(graph.nodes.length);
}

// All of it if that can be read, else what has most links, in a size that can.
const READABLE = { least: 0.45, most: 1.4 };

function show() {
  drawing.fit(undefined, 24);
  if (drawing.zoom() > READABLE.most) {
    drawing.zoom(READABLE.most);
    drawing.center();
  } else if (drawing.zoom() < READABLE.least) {
    drawing.zoom(READABLE.least);
    const focus = drawing.nodes(".focus");
    drawing.center(focus.nonempty() ? focus : drawing.nodes().max((node) => node.degree()).ele);
  }
}

// What the focus may be, whether or not it is drawn.
async function suggest() {
  const address = new URL("/api/search", location.href);
  address.searchParams.set("q", form.elements.focus.value.replace(":", " "));
  const answer = await fetch(address);
  if (!answer.ok) return;
  const found = await answer.json();
  const option = (item) => Object.assign(document.createElement("option"), { value: `${item.kind}:${item.name}` });
  names.replaceChildren(...found.items.map(option));
}

let pause = 0;
form.elements.focus.addEventListener("input", () => {
  clearTimeout(pause);
  pause = setTimeout(suggest, 150);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  draw();
});
form.addEventListener("change", (event) => {
  if (event.target.name !== "find") draw();
});
form.elements.find.addEventListener("input", (event) => {
  const text = event.target.value.toLowerCase();
  drawing.nodes().forEach((node) => node.toggleClass("faded", !node.data("name").toLowerCase().includes(text)));
});
form.addEventListener("click", (event) => {
  const { zoom, fit } = event.target.dataset;
  const middle = { x: drawing.width() / 2, y: drawing.height() / 2 };
  if (zoom) drawing.zoom({ level: drawing.zoom() * Number(zoom), renderedPosition: middle });
  if (fit !== undefined) drawing.fit(undefined, 24);
});
drawing.on("tap", "node", (event) => {
  location.href = event.target.data("url");
});
drawing.on("mouseover", "node", (event) => {
  const near = event.target.predecessors().union(event.target.successors()).union(event.target);
  drawing.elements().difference(near).addClass("faded");
});
drawing.on("mouseout", "node", () => drawing.elements().removeClass("faded"));
draw();
