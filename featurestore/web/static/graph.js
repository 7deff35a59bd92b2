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
        shape: "round-rectangle", height: 26, padding: "6px", label: "data(name)",
        width: (node) => 8 + 6.6 * Math.min(node.data("name").length, 40),
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

async function draw() {
  const fields = new FormData(form);
  const address = new URL("/api/graph", location.href);
  for (const name of ["focus", "features", "direct"]) {
    if (fields.get(name)) address.searchParams.set(name, fields.get(name) === "on" ? "true" : fields.get(name));
  }
  const answer = await fetch(address);
  const graph = await answer.json();
  if (!answer.ok) {
    said.textContent = graph.error.message;
    return;
  }
  const focus = fields.get("focus");
  drawing.elements().remove();
  drawing.add([
    ...graph.nodes.map((node) => ({ data: node, classes: node.id === focus ? "focus" : "" })),
    ...graph.links.map((link) => ({ data: { ...link, id: `${link.source}>${link.target}` } })),
  ]);
  drawing.layout({ name: "dagre", rankDir: "LR", nodeSep: 14, rankSep: 70 }).run();
  drawing.fit(undefined, 24);
  if (drawing.zoom() > 1.4) drawing.zoom(1.4), drawing.center();
  said.textContent = `${graph.nodes.length} nodes, ${graph.links.length} links` +
    (graph.hidden ? `; ${graph.hidden} more are not drawn` : "");
  const line = (node) => {
    const item = document.createElement("li");
    const link = document.createElement("a");
    link.href = node.url;
    link.textContent = node.name;
    item.append(`${node.kind.replaceAll("_", " ")} `, link);
    return item;
  };
  list.replaceChildren(...graph.nodes.map(line));
  if (!focus) {
    names.replaceChildren(...graph.nodes.map((node) => Object.assign(document.createElement("option"), { value: node.id })));
  }
  document.body.dataset.drawn = String(graph.nodes.length);
}

form.addEventListener("submit", (event) => event.preventDefault());
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
