/* Cells of the grid that are more than text. React makes text of whatever a name holds. */
(function () {
  const own = (window.dashAgGridComponentFunctions = window.dashAgGridComponentFunctions || {});
  const MARKS = { compute: "●", memory: "■", latency: "▲", overhead: "▼", communication: "◆", host: "✚", idle: "□", unknown: "○" };
  own.ProbeBar = function (props) {
    const share = Math.max(0, Math.min(1, (props.value || 0) / props.most));
    const shown = window.dashAgGridFunctions[props.show](props.value);
    return React.createElement("div", { className: "cell-bar" },
      React.createElement("i", { style: { width: (share * 100).toFixed(1) + "%" } }),
      React.createElement("span", null, shown));
  };
  own.ProbeBound = function (props) {
    return React.createElement("span", { className: "pill" },
      React.createElement("span", { className: "mark ink-" + props.value }, MARKS[props.value] || ""), props.value);
  };
})();
