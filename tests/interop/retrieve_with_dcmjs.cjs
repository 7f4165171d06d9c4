/**
 * Retrieve a study with dcmjs-dimse: by C-GET into one folder, and by C-MOVE to an SCP of its own into another one.
 *
 * The SCP is that of dcmjs-dimse's README. Arguments: port of the archive, AE title and port of the move destination,
 * Study Instance UID, the two folders.
 */
const path = require('node:path');
const { Client, Server, Scp, constants, log, requests, responses } = require('dcmjs-dimse');
const { PresentationContextResult, Status, TransferSyntax } = constants;
const [archive, aeTitle, port, study, got, moved] = process.argv.slice(2);

log.setLevel('silent');

/** Write the data set of a C-STORE request as it was received, and acknowledge it. */
function keep(folder, request, callback) {
  const dataset = request.getDataset();
  dataset.toFile(path.join(folder, `${dataset.getElement('SOPInstanceUID')}.dcm`));
  const response = responses.CStoreResponse.fromRequest(request);
  response.setStatus(Status.Success);
  callback(response);
}

class StorageScp extends Scp {
  associationRequested(association) {
    association.getPresentationContexts().forEach(({ id }) => {
      const context = association.getPresentationContext(id);
      context.getTransferSyntaxUids().forEach((syntax) => {
        if (syntax === TransferSyntax.ImplicitVRLittleEndian || syntax === TransferSyntax.ExplicitVRLittleEndian) {
          context.setResult(PresentationContextResult.Accept, syntax);
        } else {
          context.setResult(PresentationContextResult.RejectTransferSyntaxesNotSupported);
        }
      });
    });
    this.sendAssociationAccept();
  }

  cStoreRequest(request, callback) {
    keep(moved, request, callback);
  }

  associationReleaseRequested() {
    this.sendAssociationReleaseResponse();
  }
}

/** Send a request and wait for the end of its association. */
function send(request) {
  return new Promise((resolve, reject) => {
    const client = new Client();
    client.on('cStoreRequest', (store, callback) => keep(got, store, callback));
    client.on('networkError', reject);
    client.on('closed', resolve);
    client.addRequest(request);
    client.send('127.0.0.1', Number(archive), aeTitle, 'PACS');
  });
}

async function main() {
  const server = new Server(StorageScp);
  server.listen(Number(port));
  await send(requests.CGetRequest.createStudyGetRequest(study));
  await send(requests.CMoveRequest.createStudyMoveRequest(aeTitle, study));
  server.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
