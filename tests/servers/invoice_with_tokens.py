"""The invoice server with authentication. A token is a name and its scopes: `ann`, `bo+invoices:approve`."""

from mcp.server.auth.provider import AccessToken, TokenVerifier
from mcp.server.auth.settings import AuthSettings
from pydantic import AnyHttpUrl

from perdure.servers.invoice import invoice_server


class Tokens(TokenVerifier):
    async def verify_token(self, token: str) -> AccessToken | None:
        name, *scopes = token.split("+")
        return AccessToken(token=token, client_id="office", scopes=scopes, subject=name)


mcp = invoice_server(
    token_verifier=Tokens(),
    auth=AuthSettings(
        issuer_url=AnyHttpUrl("https://issuer.example"), resource_server_url=None, validate_token_resource=False
    ),
)
