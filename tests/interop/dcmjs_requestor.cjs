/**
 * Operations with dcmjs-dimse, one after the other; its storage SCP, which takes what a C-MOVE sends, is that of its README.
 *
 * Arguments: port of the archive, AE title and port of this requestor, and any of `echo`, `store FOLDER`,
 * `find PATIENT_ID`, `get STUDY FOLDER`, `move STUDY FOLDER`. Prints a line of JSON for each operation.
 */
const fs = require('node:fs');
const path = require('node:path');
const { Client, Server, Scp, constants, log, requests, responses } = require('dcmjs-dimse');
const { PresentationContextResult, Status, TransferSyntax } = constants;
const [archive, aeTitle, port, ...words] = process.argv.slice(2);

log.setLevel('silent');

/** Write the data set of a C-STORE request as it was received, and acknowledge it. */
function keep(folder, request, callback) {
  const dataset = request.getDataset();
  dataset.toFile(path.join(folder, `${dataset.getElement('SOPInstanceUID')}.dcm`));
  const response = responses.CStoreResponse.fromRequest(request);
  response.setStatus(Status.Success);
  callback(response);
}

/** Return a storage SCP that writes to a folder. */
const storageScp = (folder) => class extends Scp {
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
    keep(folder, request, callback);
  }

  associationReleaseRequested() {
    this.sendAssociationReleaseResponse();
  }
};

/** Send requests on one association, and return the responses to each after its end. */
function send(several, folder) {
  return new Promise((resolve, reject) => {
    const client = new Client();
    const received = several.map(() => []);
    client.on('cStoreRequest', (store, callback) => keep(folder, store, callback));
    client.on('networkError', reject);
    client.on('closed', () => resolve(received));
    several.forEach((request, place) => {
      request.on('response', (response) => received[place].push(response));
      client.addRequest(request);
    });
    client.send('127.0.0.1', Number(archive), aeTitle, 'PACS');
  });
}

/** Return the status and the number of completed sub-operations of the final response. */
function counted(received) {
  const final = received.at(-1);
  return { status: final.getStatus(), completed: final.getCompleted() };
}

const operations = {
  async echo() {
    const [received] = await send([new requests.CEchoRequest()]);
    return { statuses: received.map((each) => each.getStatus()) };
  },

  async store(folder) {
    const files = fs.readdirSync(folder).sort().map((name) => path.join(folder, name));
    const received = await send(files.map((file) => new requests.CStoreRequest(file)));
    return { statuses: received.flat().map((each) => each.getStatus()) };
  },

  async find(patient) {
    const keys = { PatientID: patient, PatientName: '', StudyInstanceUID: '' };
    const [received] = await send([requests.CFindRequest.createStudyFindRequest(keys)]);
    const matches = received.filter((each) => each.hasDataset()).map((each) => each.getDataset());
    const names = matches.map((each) => Object.values(each.getElement('PatientName')[0]).join('='));
    return { status: received.at(-1).getStatus(), names };
  },

  async get(study, folder) {
    const [received] = await send([requests.CGetRequest.createStudyGetRequest(study)], folder);
    return counted(received);
  },

  async move(study, folder) {
    const server = new Server(storageScp(folder));
    server.listen(Number(port));
    const [received] = await send([requests.CMoveRequest.createStudyMoveRequest(aeTitle, study)]);
    server.close();
    return counted(received);
  },
};

async function main() {
  while (words.length > 0) {
    const name = words.shift();
    const outcome = await operations[name](...words.splice(0, operations[name].length));
    console.log(JSON.stringify({ operation: name, ...outcome }));
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
