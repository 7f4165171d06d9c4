import com.pixelmed.dicom.*;
import com.pixelmed.network.*;
import java.io.File;
import java.io.PrintStream;
import java.util.*;
import java.util.stream.Collectors;

/**
 * Operations with PixelMed, one after the other.
 *
 * Arguments: port of the archive, AE title and port of this requestor, and any of `echo`, `store FOLDER`,
 * `find PATIENT_ID`, `get STUDY FOLDER`, `move STUDY FOLDER`. `calling AE_TITLE` changes the calling AE title of those
 * that follow, `destination AE_TITLE` the move destination. Prints a line of JSON for each operation.
 */
public class PixelMedRequestor {
    private static final String HOST = "127.0.0.1", CALLED = "PACS";
    private static final Set<String> RECEIVED = Set.of(
        SOPClass.CTImageStorage, SOPClass.MRImageStorage, SOPClass.SecondaryCaptureImageStorage);
    private static final StoredFilePathStrategy FLAT = StoredFilePathStrategy.BYSOPINSTANCEUIDINSINGLEFOLDER;

    private static int archive, port;
    private static String title, calling, destination;

    public static void main(String[] args) throws Exception {
        PrintStream out = new PrintStream(System.out, true, "UTF-8");
        archive = Integer.parseInt(args[0]);
        title = calling = destination = args[1];
        port = Integer.parseInt(args[2]);
        Iterator<String> words = Arrays.asList(args).subList(3, args.length).iterator();
        while (words.hasNext()) {
            String operation = words.next();
            String outcome = run(operation, words);
            if (!outcome.isEmpty()) out.println("{\"operation\": \"" + operation + "\", " + outcome + "}");
        }
        System.exit(0);
    }

    private static String run(String operation, Iterator<String> words) throws Exception {
        switch (operation) {
            case "calling": calling = words.next(); return "";
            case "destination": destination = words.next(); return "";
            case "echo": return echo();
            case "store": return store(new File(words.next()));
            case "find": return find(words.next());
            case "get": return get(words.next(), new File(words.next()));
            case "move": return move(words.next(), new File(words.next()));
            default: throw new IllegalArgumentException(operation);
        }
    }

    /** Verify the association; PixelMed throws an exception unless the status is Success. */
    private static String echo() throws Exception {
        new VerificationSOPClassSCU(HOST, archive, CALLED, calling, false);
        return "\"statuses\": [0]";
    }

    private static String store(File folder) throws Exception {
        SetOfDicomFiles files = new SetOfDicomFiles();
        for (File each : folder.listFiles()) files.add(each);
        int[] counts = new int[2];
        new StorageSOPClassSCU(HOST, archive, CALLED, calling, files, 0, new MultipleInstanceTransferStatusHandler() {
            public void updateStatus(int remaining, int completed, int failed, int warnings, String uid) {
                counts[0] = completed;
                counts[1] = failed + warnings;
            }
        });
        if (counts[1] > 0) throw new IllegalStateException(counts[1] + " instances were not stored");
        return "\"statuses\": " + Arrays.toString(new int[counts[0]]);
    }

    private static String find(String patient) throws Exception {
        List<String> names = new ArrayList<>();
        AttributeList keys = keys(null);
        put(keys, new LongStringAttribute(TagFromName.PatientID), patient);
        put(keys, new PersonNameAttribute(TagFromName.PatientName), null);
        new FindSOPClassSCU(HOST, archive, CALLED, calling, SOPClass.StudyRootQueryRetrieveInformationModelFind, keys,
            new IdentifierHandler() {
                public void doSomethingWithIdentifier(AttributeList match) {
                    names.add(Attribute.getSingleStringValueOrEmptyString(match, TagFromName.PatientName));
                }
            });
        String quoted = names.stream().map(each -> '"' + each + '"').collect(Collectors.joining(", "));
        return "\"status\": 0, \"names\": [" + quoted + "]";
    }

    private static String get(String study, File folder) throws Exception {
        Counter counter = new Counter();
        new GetSOPClassSCU(HOST, archive, CALLED, calling, SOPClass.StudyRootQueryRetrieveInformationModelGet, keys(study),
            new IdentifierHandler(), folder, FLAT, counter, RECEIVED, true, true, false);
        return "\"status\": 0, \"completed\": " + counter.received;
    }

    /** Retrieve a study to the destination; a storage SCP runs if that is this requestor. PixelMed shows no counts. */
    private static String move(String study, File folder) throws Exception {
        Counter counter = new Counter();
        StorageSOPClassSCPDispatcher storage = new StorageSOPClassSCPDispatcher(port, title, folder, FLAT, counter);
        boolean isDestination = destination.equals(title);
        if (isDestination) new Thread(storage).start();
        while (isDestination && !storage.isReady()) Thread.sleep(20);
        int status = new MoveSOPClassSCU(HOST, archive, CALLED, calling, destination,
            SOPClass.StudyRootQueryRetrieveInformationModelMove, keys(study)).getStatus();
        if (isDestination) storage.shutdown();
        return "\"status\": " + status + ", \"completed\": " + counter.received;
    }

    /** Counts received instances. */
    private static class Counter extends ReceivedObjectHandler {
        volatile int received;

        public void sendReceivedObjectIndication(String file, String transferSyntax, String calling) {
            received++;
        }
    }

    private static AttributeList keys(String study) throws DicomException {
        AttributeList keys = new AttributeList();
        put(keys, new CodeStringAttribute(TagFromName.QueryRetrieveLevel), "STUDY");
        put(keys, new UniqueIdentifierAttribute(TagFromName.StudyInstanceUID), study);
        return keys;
    }

    private static void put(AttributeList keys, Attribute attribute, String value) throws DicomException {
        if (value != null) attribute.addValue(value);
        keys.put(attribute);
    }
}
