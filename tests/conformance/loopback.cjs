// The suite's own listeners bind every interface; with this they bind 127.0.0.1 alone. It reads their address right
// after `listen`, so the lookup of a host's name, which `listen(port, host)` would do, comes too late.
const { Server } = require("net");

const listen = Server.prototype.listen;

function portOf(first) {
  if (typeof first === "object" && first !== null) return first.host === undefined ? first.port : undefined;
  return typeof first === "function" || first === undefined ? 0 : first;
}

Server.prototype.listen = function (...args) {
  const port = Number(portOf(args[0]));
  if (!Number.isInteger(port) || typeof args[1] === "string") return listen.apply(this, args);
  const listening = args.find((each) => typeof each === "function");
  if (listening) this.once("listening", listening);
  this._listen2("127.0.0.1", port, 4, 511, undefined, 0);
  return this;
};
